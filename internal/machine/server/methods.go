// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"wherry.example/wherry/api/wherryv1/wherryv1connect"
	"wherry.example/wherry/config"
)

// method is what the table says of one method.
type method struct {
	role    config.Role // the least that is needed; "" : anybody
	changes bool        // leaves a line in the log
	bytes   int         // of one request message; 0: smallMessage
}

const (
	smallMessage = 64 << 10
	// chunkMessage holds one chunk of a stream (1 MiB by agreement) and its framing.
	chunkMessage = 1<<20 + 1<<10
	largeMessage = 1 << 20
	// documentMessage holds a configuration of config.MaxBytes, as JSON escapes it.
	documentMessage = 2*config.MaxBytes + 1<<10
)

func (m method) maxBytes() int {
	if m.bytes == 0 {
		return smallMessage
	}
	return m.bytes
}

// anybody is the role of callers without a known key.
const anybody config.Role = ""

// methods is who may do what. A method that is not here is not served.
var methods = map[string]method{
	wherryv1connect.ContainerServiceCreateContainerProcedure:     {role: config.RoleOperator, changes: true, bytes: largeMessage},
	wherryv1connect.ContainerServiceStartContainerProcedure:      {role: config.RoleOperator, changes: true},
	wherryv1connect.ContainerServiceStopContainerProcedure:       {role: config.RoleOperator, changes: true},
	wherryv1connect.ContainerServiceRestartContainerProcedure:    {role: config.RoleOperator, changes: true},
	wherryv1connect.ContainerServiceKillContainerProcedure:       {role: config.RoleOperator, changes: true},
	wherryv1connect.ContainerServicePauseContainerProcedure:      {role: config.RoleOperator, changes: true},
	wherryv1connect.ContainerServiceUnpauseContainerProcedure:    {role: config.RoleOperator, changes: true},
	wherryv1connect.ContainerServiceRemoveContainerProcedure:     {role: config.RoleOperator, changes: true},
	wherryv1connect.ContainerServiceListContainersProcedure:      {role: config.RoleReader},
	wherryv1connect.ContainerServiceInspectContainerProcedure:    {role: config.RoleReader}, // values of env are hidden from readers
	wherryv1connect.ContainerServiceWaitContainerProcedure:       {role: config.RoleReader},
	wherryv1connect.ContainerServiceStreamContainerLogsProcedure: {role: config.RoleReader},
	wherryv1connect.ContainerServiceAttachProcedure:              {role: config.RoleOperator, changes: true, bytes: chunkMessage},
	wherryv1connect.ContainerServiceExecProcedure:                {role: config.RoleOperator, changes: true, bytes: chunkMessage},
	wherryv1connect.ContainerServiceListProcessesProcedure:       {role: config.RoleOperator}, // arguments hold secrets
	wherryv1connect.ContainerServiceStreamStatsProcedure:         {role: config.RoleReader},
	wherryv1connect.ContainerServiceCopyToProcedure:              {role: config.RoleOperator, changes: true, bytes: chunkMessage},
	wherryv1connect.ContainerServiceCopyFromProcedure:            {role: config.RoleOperator}, // files hold secrets
	wherryv1connect.ContainerServiceStreamEventsProcedure:        {role: config.RoleReader},

	wherryv1connect.ImageServicePullImageProcedure:    {role: config.RoleOperator, changes: true},
	wherryv1connect.ImageServiceLoadImagesProcedure:   {role: config.RoleOperator, changes: true, bytes: chunkMessage},
	wherryv1connect.ImageServiceListImagesProcedure:   {role: config.RoleReader},
	wherryv1connect.ImageServiceInspectImageProcedure: {role: config.RoleReader},
	wherryv1connect.ImageServiceTagImageProcedure:     {role: config.RoleOperator, changes: true},
	wherryv1connect.ImageServiceRemoveImageProcedure:  {role: config.RoleOperator, changes: true},
	wherryv1connect.ImageServicePruneImagesProcedure:  {role: config.RoleOperator, changes: true},

	wherryv1connect.VolumeServiceCreateVolumeProcedure:  {role: config.RoleOperator, changes: true},
	wherryv1connect.VolumeServiceListVolumesProcedure:   {role: config.RoleReader},
	wherryv1connect.VolumeServiceInspectVolumeProcedure: {role: config.RoleReader},
	wherryv1connect.VolumeServiceRemoveVolumeProcedure:  {role: config.RoleOperator, changes: true},
	wherryv1connect.VolumeServicePruneVolumesProcedure:  {role: config.RoleOperator, changes: true},

	wherryv1connect.NetworkServiceCreateNetworkProcedure:  {role: config.RoleOperator, changes: true},
	wherryv1connect.NetworkServiceListNetworksProcedure:   {role: config.RoleReader},
	wherryv1connect.NetworkServiceInspectNetworkProcedure: {role: config.RoleReader},
	wherryv1connect.NetworkServiceRemoveNetworkProcedure:  {role: config.RoleOperator, changes: true},
	wherryv1connect.NetworkServicePruneNetworksProcedure:  {role: config.RoleOperator, changes: true},

	// What runs on the machine is its admin's decision; when its work may be interrupted is the operator's too.
	wherryv1connect.UpdateServiceGetUpdateProcedure:     {role: config.RoleReader},
	wherryv1connect.UpdateServiceCheckUpdateProcedure:   {role: config.RoleOperator, changes: true},
	wherryv1connect.UpdateServiceApplyUpdateProcedure:   {role: config.RoleAdmin, changes: true},
	wherryv1connect.UpdateServiceApplyBundleProcedure:   {role: config.RoleAdmin, changes: true, bytes: chunkMessage},
	wherryv1connect.UpdateServicePauseUpdatesProcedure:  {role: config.RoleOperator, changes: true},
	wherryv1connect.UpdateServiceResumeUpdatesProcedure: {role: config.RoleOperator, changes: true},
	wherryv1connect.UpdateServiceListUpdatesProcedure:   {role: config.RoleReader},
	wherryv1connect.UpdateServiceRollbackProcedure:      {role: config.RoleAdmin, changes: true},

	wherryv1connect.AttestServiceAttestProcedure: {role: config.RoleReader}, // who watches machines needs to change nothing

	wherryv1connect.InstallServiceListDisksProcedure: {role: config.RoleReader},
	wherryv1connect.InstallServiceInstallProcedure:   {role: config.RoleAdmin, changes: true, bytes: documentMessage},

	wherryv1connect.MachineServiceGetVersionProcedure:  {role: anybody},
	wherryv1connect.MachineServiceWhoAmIProcedure:      {role: config.RoleReader},
	wherryv1connect.MachineServiceGetStatusProcedure:   {role: config.RoleReader},
	wherryv1connect.MachineServiceStreamLogProcedure:   {role: config.RoleOperator},
	wherryv1connect.MachineServiceGetConfigProcedure:   {role: config.RoleReader}, // secrets are hidden
	wherryv1connect.MachineServiceApplyConfigProcedure: {role: config.RoleAdmin, changes: true, bytes: documentMessage},
	wherryv1connect.MachineServiceRebootProcedure:      {role: config.RoleAdmin, changes: true},
	wherryv1connect.MachineServicePowerOffProcedure:    {role: config.RoleAdmin, changes: true},
}

// ranks orders the roles: each includes the ones before it.
var ranks = map[config.Role]int{anybody: 0, config.RoleReader: 1, config.RoleOperator: 2, config.RoleAdmin: 3}

// allows says whether a caller with the role has may do what needs the role need.
func allows(has, need config.Role) bool {
	h, known := ranks[has]
	n, ok := ranks[need]
	return known && ok && h >= n
}
