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

// Early is what /init needs to mount the root: it lies outside of the root.
var Early = []Group{
	{Name: "early", Required: true, Modules: []string{"loop", "squashfs"}},
}

// Root is what the root image holds beside Early: what a container host in a
// virtual machine or a cloud can ask for. Nothing of it is loaded before the
// hardware or a program asks. Left out on purpose, by size: the Mellanox
// drivers and InfiniBand (3 MB compressed), NFS and CIFS (1.3 MB), Btrfs, bcachefs,
// KVM, Ceph, and the iptables compatibility modules (xt_*, ip_set).
var Root = []Group{
	{Name: "loop root", Required: true, Modules: []string{"loop", "squashfs"}},
	{Name: "virtio", Required: true, Modules: []string{"virtio_net", "virtio_blk", "virtio_scsi", "virtio_pci", "virtio_console", "virtio_balloon", "virtio_rng"}},
	{Name: "virtio more", Modules: []string{"virtio_mmio", "virtio_mem", "virtio_pmem", "virtio_input", "virtiofs", "virtio_iommu"}},
	{Name: "qemu", Modules: []string{"qemu_fw_cfg", "pvpanic_pci", "pvpanic_mmio", "ptp_kvm", "i6300esb"}},
	{Name: "disks", Required: true, Modules: []string{"nvme", "sd_mod"}},
	{Name: "disks more", Modules: []string{"ahci", "ata_piix", "sr_mod", "cdrom", "sg", "nvme_tcp", "nvme_fabrics", "zram", "nbd", "brd"}},
	{Name: "amazon", Modules: []string{"ena", "ixgbevf", "nsm"}},
	{Name: "google", Modules: []string{"gve", "idpf"}},
	{Name: "hyper-v", Modules: []string{"hv_vmbus", "hv_utils", "hv_balloon", "hv_storvsc", "hv_netvsc", "hyperv_keyboard", "pci_hyperv", "hv_sock", "mana"}},
	{Name: "vmware", Modules: []string{"vmxnet3", "vmw_pvscsi", "vmw_balloon", "vmw_vmci", "vmw_vsock_vmci_transport", "ptp_vmw"}},
	{Name: "xen", Modules: []string{"xen_blkfront", "xen_netfront", "xen_scsifront", "xen_pcifront", "xenfs", "xen_evtchn", "xen_privcmd", "xen_gntdev", "xen_wdt"}},
	{Name: "state filesystem", Required: true, Modules: []string{"xfs", "overlay"}},
	{Name: "filesystems", Modules: []string{"ext4", "vfat", "nls_cp437", "nls_ascii", "nls_utf8", "nls_iso8859_1", "fuse", "isofs", "erofs", "efivarfs", "binfmt_misc", "configfs", "autofs4"}},
	{Name: "device mapper", Modules: []string{"dm_mod", "dm_crypt", "dm_verity", "dm_integrity", "dm_snapshot", "dm_thin_pool"}},
	{Name: "raid", Modules: []string{"raid0", "raid1"}},
	{Name: "container network", Required: true, Modules: []string{"veth", "bridge", "tun", "dummy"}},
	{Name: "container network more", Modules: []string{"br_netfilter", "macvlan", "macvtap", "ipvlan", "ipvtap", "vxlan", "geneve", "vrf", "ifb", "tap", "8021q", "bonding", "wireguard", "netkit", "nlmon", "ipip", "sit", "ip6_tunnel", "ip_gre", "ip6_gre"}},
	{Name: "nftables", Required: true, Modules: []string{"nf_tables", "nft_chain_nat", "nft_ct", "nft_nat", "nft_masq", "nft_redir", "nft_fib_inet", "nft_reject_inet", "nft_log", "nft_limit", "nf_conntrack", "nf_nat", "nfnetlink"}},
	{Name: "nftables more", Modules: []string{"nft_*", "nf_conntrack_netlink", "nf_conntrack_ftp", "nf_conntrack_tftp", "nf_nat_ftp", "nf_nat_tftp", "nf_conntrack_bridge", "nf_log_syslog", "nf_flow_table*", "nfnetlink_log", "nfnetlink_queue"}},
	{Name: "traffic control", Modules: []string{"sch_fq", "sch_fq_codel", "sch_htb", "sch_tbf", "sch_ingress", "sch_netem", "sch_prio", "sch_cake", "cls_bpf", "cls_u32", "cls_matchall", "cls_flower", "cls_fw", "cls_cgroup", "act_bpf", "act_mirred", "act_police", "act_gact"}},
	{Name: "protocols", Modules: []string{"tcp_bbr", "tcp_dctcp", "tls", "inet_diag", "tcp_diag", "udp_diag", "unix_diag", "netlink_diag", "af_packet_diag", "xsk_diag"}},
	{Name: "vsock", Modules: []string{"vsock", "vmw_vsock_virtio_transport", "vsock_loopback", "vsock_diag"}},
	{Name: "crypto", Modules: []string{"aesni_intel", "ghash_clmulni_intel", "sha256_ssse3", "sha512_ssse3", "sha1_ssse3", "crc32c_intel", "crc32_pclmul", "crct10dif_pclmul", "chacha20poly1305", "gcm", "ccm", "xts", "essiv", "authenc", "cmac", "seqiv", "algif_*", "zstd", "lz4"}},
	{Name: "machine", Modules: []string{"button", "evdev", "softdog", "wdat_wdt", "watchdog", "efi_pstore", "ramoops", "tpm_*", "rapl", "sev_guest", "tdx_guest", "tsm", "dimlib", "mq_deadline", "bfq", "kyber_iosched"}},
}
