// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"

	"connectrpc.com/connect"
	"wherry.example/wherry/api/wherryv1"
)

// apiVersion is the version of the protocol that this server speaks.
const apiVersion = "v1"

type images struct{ Images }

func (i *images) PullImage(ctx context.Context, req *connect.Request[wherryv1.PullImageRequest], stream *connect.ServerStream[wherryv1.PullImageResponse]) error {
	if req.Msg.Image == "" {
		return invalid("no image is named")
	}
	return i.Images.PullImage(ctx, req.Msg, serial(stream.Send))
}

func (i *images) LoadImages(ctx context.Context, stream *connect.ClientStream[wherryv1.LoadImagesRequest]) (*connect.Response[wherryv1.LoadImagesResponse], error) {
	list, err := i.Images.LoadImages(ctx, newChunks(func() ([]byte, error) {
		if !stream.Receive() {
			return nil, endError(stream.Err())
		}
		return stream.Msg().GetArchive(), nil
	}))
	return respond(&wherryv1.LoadImagesResponse{Images: list}, err)
}

func (i *images) ListImages(ctx context.Context, req *connect.Request[wherryv1.ListImagesRequest]) (*connect.Response[wherryv1.ListImagesResponse], error) {
	list, err := i.Images.ListImages(ctx, req.Msg)
	return respond(&wherryv1.ListImagesResponse{Images: list}, err)
}

func (i *images) InspectImage(ctx context.Context, req *connect.Request[wherryv1.InspectImageRequest]) (*connect.Response[wherryv1.InspectImageResponse], error) {
	if req.Msg.Image == "" {
		return nil, invalid("no image is named")
	}
	res, err := i.Images.InspectImage(ctx, req.Msg.Image)
	return respond(res, err)
}

func (i *images) TagImage(ctx context.Context, req *connect.Request[wherryv1.TagImageRequest]) (*connect.Response[wherryv1.TagImageResponse], error) {
	if req.Msg.Image == "" || req.Msg.Name == "" {
		return nil, invalid("a tag needs an image and a name")
	}
	return respond(&wherryv1.TagImageResponse{}, i.Images.TagImage(ctx, req.Msg.Image, req.Msg.Name))
}

func (i *images) RemoveImage(ctx context.Context, req *connect.Request[wherryv1.RemoveImageRequest]) (*connect.Response[wherryv1.RemoveImageResponse], error) {
	if req.Msg.Image == "" {
		return nil, invalid("no image is named")
	}
	res, err := i.Images.RemoveImage(ctx, req.Msg.Image, req.Msg.Force)
	return respond(res, err)
}

func (i *images) PruneImages(ctx context.Context, req *connect.Request[wherryv1.PruneImagesRequest]) (*connect.Response[wherryv1.PruneImagesResponse], error) {
	res, err := i.Images.PruneImages(ctx, req.Msg.All)
	return respond(res, err)
}

type volumes struct{ Volumes }

func (v *volumes) CreateVolume(ctx context.Context, req *connect.Request[wherryv1.CreateVolumeRequest]) (*connect.Response[wherryv1.CreateVolumeResponse], error) {
	volume, err := v.Volumes.CreateVolume(ctx, req.Msg)
	return respond(&wherryv1.CreateVolumeResponse{Volume: volume}, err)
}

func (v *volumes) ListVolumes(ctx context.Context, _ *connect.Request[wherryv1.ListVolumesRequest]) (*connect.Response[wherryv1.ListVolumesResponse], error) {
	list, err := v.Volumes.ListVolumes(ctx)
	return respond(&wherryv1.ListVolumesResponse{Volumes: list}, err)
}

func (v *volumes) InspectVolume(ctx context.Context, req *connect.Request[wherryv1.InspectVolumeRequest]) (*connect.Response[wherryv1.InspectVolumeResponse], error) {
	if req.Msg.Name == "" {
		return nil, invalid("no volume is named")
	}
	volume, err := v.Volumes.InspectVolume(ctx, req.Msg.Name)
	return respond(&wherryv1.InspectVolumeResponse{Volume: volume}, err)
}

func (v *volumes) RemoveVolume(ctx context.Context, req *connect.Request[wherryv1.RemoveVolumeRequest]) (*connect.Response[wherryv1.RemoveVolumeResponse], error) {
	if req.Msg.Name == "" {
		return nil, invalid("no volume is named")
	}
	return respond(&wherryv1.RemoveVolumeResponse{}, v.Volumes.RemoveVolume(ctx, req.Msg.Name, req.Msg.Force))
}

func (v *volumes) PruneVolumes(ctx context.Context, req *connect.Request[wherryv1.PruneVolumesRequest]) (*connect.Response[wherryv1.PruneVolumesResponse], error) {
	res, err := v.Volumes.PruneVolumes(ctx, req.Msg.All)
	return respond(res, err)
}

type networks struct{ Networks }

func (n *networks) CreateNetwork(ctx context.Context, req *connect.Request[wherryv1.CreateNetworkRequest]) (*connect.Response[wherryv1.CreateNetworkResponse], error) {
	if req.Msg.Name == "" {
		return nil, invalid("no network is named")
	}
	network, err := n.Networks.CreateNetwork(ctx, req.Msg)
	return respond(&wherryv1.CreateNetworkResponse{Network: network}, err)
}

func (n *networks) ListNetworks(ctx context.Context, _ *connect.Request[wherryv1.ListNetworksRequest]) (*connect.Response[wherryv1.ListNetworksResponse], error) {
	list, err := n.Networks.ListNetworks(ctx)
	return respond(&wherryv1.ListNetworksResponse{Networks: list}, err)
}

func (n *networks) InspectNetwork(ctx context.Context, req *connect.Request[wherryv1.InspectNetworkRequest]) (*connect.Response[wherryv1.InspectNetworkResponse], error) {
	if req.Msg.Name == "" {
		return nil, invalid("no network is named")
	}
	network, err := n.Networks.InspectNetwork(ctx, req.Msg.Name)
	return respond(&wherryv1.InspectNetworkResponse{Network: network}, err)
}

func (n *networks) RemoveNetwork(ctx context.Context, req *connect.Request[wherryv1.RemoveNetworkRequest]) (*connect.Response[wherryv1.RemoveNetworkResponse], error) {
	if req.Msg.Name == "" {
		return nil, invalid("no network is named")
	}
	return respond(&wherryv1.RemoveNetworkResponse{}, n.Networks.RemoveNetwork(ctx, req.Msg.Name))
}

func (n *networks) PruneNetworks(ctx context.Context, _ *connect.Request[wherryv1.PruneNetworksRequest]) (*connect.Response[wherryv1.PruneNetworksResponse], error) {
	removed, err := n.Networks.PruneNetworks(ctx)
	return respond(&wherryv1.PruneNetworksResponse{Removed: removed}, err)
}

type attester struct{ Attester }

func (a *attester) Attest(ctx context.Context, req *connect.Request[wherryv1.AttestRequest]) (*connect.Response[wherryv1.Attestation], error) {
	res, err := a.Attester.Attest(ctx, req.Msg.Nonce)
	return respond(res, err)
}

type machine struct {
	Machine
	version string
}

func (m *machine) GetVersion(context.Context, *connect.Request[wherryv1.GetVersionRequest]) (*connect.Response[wherryv1.GetVersionResponse], error) {
	return connect.NewResponse(&wherryv1.GetVersionResponse{Version: m.version, Api: apiVersion}), nil
}

func (m *machine) WhoAmI(ctx context.Context, _ *connect.Request[wherryv1.WhoAmIRequest]) (*connect.Response[wherryv1.WhoAmIResponse], error) {
	who := callerFrom(ctx)
	return connect.NewResponse(&wherryv1.WhoAmIResponse{Fingerprint: who.fingerprint, Comment: who.comment, Role: string(who.role)}), nil
}

func (m *machine) GetStatus(ctx context.Context, _ *connect.Request[wherryv1.GetStatusRequest]) (*connect.Response[wherryv1.GetStatusResponse], error) {
	res, err := m.Status(ctx)
	return respond(res, err)
}

func (m *machine) StreamLog(ctx context.Context, req *connect.Request[wherryv1.StreamLogRequest], stream *connect.ServerStream[wherryv1.LogLine]) error {
	return m.Log(ctx, req.Msg, serial(stream.Send))
}

func (m *machine) GetConfig(ctx context.Context, _ *connect.Request[wherryv1.GetConfigRequest]) (*connect.Response[wherryv1.GetConfigResponse], error) {
	res, err := m.Config(ctx)
	return respond(res, err)
}

func (m *machine) ApplyConfig(ctx context.Context, req *connect.Request[wherryv1.ApplyConfigRequest]) (*connect.Response[wherryv1.ApplyConfigResponse], error) {
	res, err := m.Machine.ApplyConfig(ctx, req.Msg.Document, req.Msg.DryRun)
	return respond(res, err)
}

func (m *machine) Reboot(ctx context.Context, _ *connect.Request[wherryv1.RebootRequest]) (*connect.Response[wherryv1.RebootResponse], error) {
	return respond(&wherryv1.RebootResponse{}, m.Machine.Reboot(ctx))
}

func (m *machine) PowerOff(ctx context.Context, _ *connect.Request[wherryv1.PowerOffRequest]) (*connect.Response[wherryv1.PowerOffResponse], error) {
	return respond(&wherryv1.PowerOffResponse{}, m.Machine.PowerOff(ctx))
}
