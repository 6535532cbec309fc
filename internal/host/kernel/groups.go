// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

// Group is a set of modules that an image holds for one reason. Modules are
// shell patterns over names with underscores; what they depend on comes along.
type Group struct {
	Name     string
	Required bool // a kernel without one of these is refused
	Modules  []string
}

// Early is what wherry-early needs to mount the root: it lies outside of the root.
var Early = []Group{
	{Name: "early", Required: true, Modules: []string{"loop", "squashfs"}},
}

// Root is what the root image holds beside Early: what a container host in a
// virtual machine or a cloud can ask for. Nothing of it is loaded before the
// hardware or a program asks. Groups that a boot reads come first, since the
// order here is also the order in the image.
//
// Left out on purpose, by compressed size: the Mellanox drivers and InfiniBand
// (1.5 MB), NFS and CIFS (1.3 MB), Btrfs and bcachefs (1.5 MB), KVM (0.6 MB),
// persistent memory, RAID, thin pools and bonding (0.1 MB each), and the
// iptables compatibility modules (xt_*, ip_set).
var Root = []Group{
	{Name: "root", Required: true, Modules: []string{"loop", "squashfs"}},
	{Name: "virtio", Required: true, Modules: []string{"virtio_net", "virtio_blk", "virtio_pci", "virtio_console", "virtio_balloon", "virtio_rng"}},
	{Name: "state", Required: true, Modules: []string{"xfs", "overlay"}},
	{Name: "container network", Required: true, Modules: []string{"veth", "bridge", "br_netfilter"}},
	{Name: "nftables", Required: true, Modules: []string{"nf_tables", "nfnetlink", "nf_conntrack", "nf_nat", "nft_chain_nat", "nft_ct", "nft_nat", "nft_masq", "nft_redir", "nft_fib_inet", "nft_reject_inet", "nft_log", "nft_limit"}},
	{Name: "qemu", Modules: []string{"qemu_fw_cfg", "pvpanic_pci", "pvpanic_mmio", "ptp_kvm", "i6300esb"}},
	{Name: "virtio more", Modules: []string{"virtio_scsi", "virtio_mmio", "virtio_input", "virtiofs", "virtio_iommu"}},
	{Name: "disks", Required: true, Modules: []string{"nvme", "sd_mod"}},
	{Name: "disks more", Modules: []string{"ahci", "ata_piix", "sr_mod", "cdrom", "zram"}},
	{Name: "filesystems", Modules: []string{"ext4", "vfat", "nls_cp437", "nls_ascii", "nls_utf8", "nls_iso8859_1", "fuse", "isofs", "efivarfs", "binfmt_misc"}},
	{Name: "amazon", Modules: []string{"ena", "ixgbevf", "nsm"}},
	{Name: "google", Modules: []string{"gve"}},
	{Name: "hyper-v", Modules: []string{"hv_vmbus", "hv_utils", "hv_balloon", "hv_storvsc", "hv_netvsc", "hyperv_keyboard", "pci_hyperv", "hv_sock", "mana"}},
	{Name: "vmware", Modules: []string{"vmxnet3", "vmw_pvscsi", "vmw_balloon", "vmw_vmci", "vmw_vsock_vmci_transport", "ptp_vmw"}},
	{Name: "xen", Modules: []string{"xen_blkfront", "xen_netfront", "xen_wdt"}},
	{Name: "device mapper", Modules: []string{"dm_mod", "dm_crypt", "dm_verity"}},
	{Name: "container network more", Modules: []string{"tun", "dummy", "macvlan", "ipvlan", "vxlan", "ifb", "8021q", "wireguard", "netkit"}},
	{Name: "nftables more", Modules: []string{"nft_connlimit", "nft_dup_*", "nft_fib*", "nft_flow_offload", "nft_fwd_netdev", "nft_hash", "nft_meta_bridge", "nft_numgen", "nft_queue", "nft_quota", "nft_reject*", "nft_socket", "nft_synproxy", "nft_tproxy", "nf_conntrack_netlink", "nf_conntrack_ftp", "nf_conntrack_tftp", "nf_nat_ftp", "nf_nat_tftp", "nf_conntrack_bridge", "nf_log_syslog", "nf_flow_table*", "nfnetlink_log", "nfnetlink_queue"}},
	{Name: "traffic control", Modules: []string{"sch_fq", "sch_fq_codel", "sch_htb", "sch_tbf", "sch_ingress", "sch_netem", "cls_bpf", "cls_u32", "cls_matchall", "cls_fw", "cls_cgroup", "act_bpf", "act_mirred", "act_police", "act_gact"}},
	{Name: "protocols", Modules: []string{"tcp_bbr", "tls", "inet_diag", "tcp_diag", "udp_diag", "unix_diag", "netlink_diag"}},
	{Name: "vsock", Modules: []string{"vsock", "vmw_vsock_virtio_transport", "vsock_loopback", "vsock_diag"}},
	{Name: "crypto", Modules: []string{"aesni_intel", "ghash_clmulni_intel", "sha256_ssse3", "sha512_ssse3", "sha1_ssse3", "crc32c_intel", "crc32_pclmul", "crct10dif_pclmul", "gcm", "xts", "essiv", "authenc", "seqiv", "zstd", "lz4"}},
	{Name: "machine", Modules: []string{"button", "evdev", "softdog", "wdat_wdt", "watchdog", "efi_pstore", "mq_deadline"}},
}
