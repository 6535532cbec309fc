// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

// Hardware is what the root image of a machine of metal holds beside Root: what
// servers, small computers and desktops boot from and are reached by. Which of
// it is loaded the hardware decides, by its modalias.
//
// Left out on purpose: graphics (the console is the firmware's frame buffer),
// sound, wireless networks and Bluetooth, which nobody administers a container
// host by; Fibre Channel, InfiniBand and software RAID.
var Hardware = []Group{
	{Name: "usb", Required: true, Modules: []string{"xhci_pci", "ehci_pci", "usb_storage", "uas", "usbhid", "hid_generic"}},
	{Name: "usb more", Modules: []string{"ehci_hcd", "ohci_pci", "uhci_hcd", "hid_apple", "hid_logitech", "hid_logitech_dj", "hid_logitech_hidpp", "hid_microsoft", "typec_ucsi", "ucsi_acpi"}},
	{Name: "usb serial", Modules: []string{"usbserial", "ftdi_sio", "cp210x", "pl2303", "ch341", "cdc_acm"}},
	{Name: "usb sticks", Modules: []string{"exfat"}}, // what large ones come with
	{Name: "sata", Required: true, Modules: []string{"ahci", "sd_mod"}},
	{Name: "sata more", Modules: []string{"acard_ahci", "ata_generic", "sata_mv", "sata_nv", "sata_sil", "sata_sil24", "sata_sis", "sata_svw", "sata_via", "pata_amd", "pata_via", "pata_sis", "pata_jmicron"}},
	{Name: "nvme more", Modules: []string{"vmd", "nvme_fabrics", "nvme_tcp"}},
	{Name: "storage controllers", Modules: []string{"megaraid_sas", "mpt3sas", "mpi3mr", "aacraid", "hpsa", "smartpqi", "arcmsr", "isci", "pm80xx", "mvsas", "3w_9xxx", "3w_sas", "ses", "sg"}},
	{Name: "cards", Modules: []string{"mmc_block", "sdhci_pci", "sdhci_acpi", "rtsx_pci", "rtsx_pci_sdmmc", "rtsx_usb", "rtsx_usb_sdmmc", "ufshcd_pci"}},
	{Name: "network", Required: true, Modules: []string{"e1000", "e1000e", "igb", "igc", "ixgbe", "i40e", "r8169", "tg3", "bnxt_en"}},
	{Name: "network more", Modules: []string{
		"ice", "iavf", "ixgbevf", "e100", "bnx2", "bnx2x", "be2net", "atlantic", "alx", "atl1", "atl1c", "atl1e", "atl2", "sky2", "skge", "forcedeth", "8139cp", "8139too", "jme", "via_rhine", "via_velocity",
		"mlx4_en", "mlx5_core", "cxgb4", "qede", "qlcnic", "sfc", "enic", "ionic", "dwmac_intel", "amd_xgbe", "lan743x", "pcnet32",
	}},
	{Name: "network phys", Modules: []string{"realtek", "broadcom", "marvell", "micrel", "smsc", "at803x", "lxt", "cicada", "vitesse", "national", "davicom", "icplus", "qsemi", "ste10Xp", "bcm87xx", "aquantia", "marvell10g"}},
	{Name: "network usb", Modules: []string{"r8152", "ax88179_178a", "asix", "cdc_ether", "cdc_ncm", "cdc_mbim", "smsc75xx", "smsc95xx", "lan78xx", "aqc111", "dm9601", "rndis_host"}},
	{Name: "watchdogs", Modules: []string{"iTCO_wdt", "iTCO_vendor_support", "i6300esb", "sp5100_tco", "ie6xx_wdt", "hpwdt", "mei_wdt", "ipmi_watchdog", "it87_wdt", "w83627hf_wdt", "f71808e_wdt", "nv_tco", "via_wdt", "acquirewdt", "wdat_wdt"}},
	{Name: "management", Modules: []string{"ipmi_si", "ipmi_devintf", "ipmi_ssif", "acpi_ipmi", "mei_me", "i2c_i801", "i2c_piix4", "lpc_ich", "intel_pmc_bxt", "intel_lpss_pci", "intel_lpss_acpi", "acpi_power_meter"}},
	{Name: "sensors", Modules: []string{"coretemp", "k10temp", "drivetemp", "nct6775", "it87", "intel_rapl_msr", "x86_pkg_temp_thermal", "intel_powerclamp"}},
	{Name: "processors", Modules: []string{"acpi_cpufreq", "acpi_pad", "intel_uncore_frequency"}},
}
