// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

// Where things are.
const (
	newRoot     = "/newroot"
	rootImage   = "/root.squashfs"
	moduleDir   = "/modules/"
	moduleOrder = "/modules/order"
	signed      = ".signed" // ends the name of a module as its distribution signed it
	program     = "/sbin/init"
)

// failDelay is how long a failed boot stays readable before the machine restarts, in seconds.
const failDelay = 30

// stage is a part of the boot that must not fail.
type stage int

const (
	kernelStage stage = iota
	rootStage
)

func (s stage) name() string {
	if s == kernelStage {
		return "kernel file systems: "
	}
	return "root image: "
}

func (s stage) hint() string {
	if s == kernelStage {
		return "The kernel lacks devtmpfs, proc or sysfs: Wherry needs a distribution's kernel."
	}
	return "The initramfs is damaged or not Wherry's: fetch or build it again."
}

// step is what is being done.
var step line

func begin(verb, object string) {
	step.empty()
	step.add(verb)
	step.add(object)
	tell()
}

func tell() {
	if told.debug {
		say(notice, "wherry-early: ", &step, 0)
	}
}

// must ends the boot when the step failed.
func (s stage) must(result uintptr) {
	if err := errno(result); err != 0 {
		s.fail(err)
	}
}

// fail tells why there is no machine, and what to do, and ends the run.
func (s stage) fail(err uintptr) {
	message := &word // no flag is read any more
	message.empty()
	message.add(s.name())
	message.addLine(&step)
	say(emergency, "wherry: boot failed: ", message, err)
	say(emergency, s.hint(), nil, 0)
	end := uintptr(rebootRestart)
	switch told.onFail {
	case onFailOff:
		end = rebootOff
		say(emergency, "The machine powers off in 30 seconds (wherry.onfail=poweroff).", nil, 0)
	case onFailHalt:
		say(emergency, "The machine stays as it is (wherry.onfail=halt).", nil, 0)
		forever()
	default:
		say(emergency, "The machine restarts in 30 seconds; wherry.onfail=halt on the kernel's command line keeps it here.", nil, 0)
	}
	sleep(failDelay)
	call(sysReboot, rebootMagic1, rebootMagic2, end, 0, 0)
	forever()
}

// forever keeps the process alive.
func forever() {
	for {
		call(sysPause, 0, 0, 0, 0, 0)
	}
}

func (s stage) mount(source, target, kind string, flags uintptr, data string) {
	begin("mount ", target)
	result := call(sysMount, first(source), second(target), third(kind), flags, fourth(data))
	if errno(result) != errBusy { // a kernel may have mounted /dev
		s.must(result)
	}
}

// kernelFileSystems gives this program a log and the command line.
func kernelFileSystems() {
	openLog()
	kernelStage.mount("devtmpfs", "/dev", "devtmpfs", mountNoSuid, "mode=0755")
	kernelStage.mount("proc", "/proc", "proc", mountNoSuid|mountNoDev|mountNoExec, "")
	kernelStage.mount("sysfs", "/sys", "sysfs", mountNoSuid|mountNoDev|mountNoExec, "")
	read("/proc/cmdline")
	told.read(content())
}

// lastWords is done before anything else can go wrong, and may fail.
func lastWords() {
	// If the first process dies in spite of everything, the machine restarts.
	set("/proc/sys/kernel/panic", "10\n")
	// A kernel that goes on after a fault may hold locks that nobody releases: such
	// a machine answers no more and never restarts. This way a trial counts it.
	set("/proc/sys/kernel/panic_on_oops", "1\n")
	// The kernel would drop all but ten of a program's lines in five seconds. It wants the line break.
	set("/proc/sys/kernel/printk_devkmsg", "on\n")
}

func set(file, value string) {
	begin("set ", file)
	if err := errno(write(file, value)); err != 0 {
		say(failure, "wherry-early: last words: ", &step, err)
	}
}

// loadModules loads what reading the root image needs. Without a list the kernel has it built in.
func loadModules() {
	if errno(read(moduleOrder)) != 0 {
		return
	}
	word.empty()
	for _, c := range content() {
		if c != '\n' {
			word.byte(c)
			continue
		}
		load(&word)
		word.empty()
	}
}

// path is that of the module.
var path line

// load loads a module, and gives its memory back. A kernel in lockdown takes it
// only as it was signed, which costs the others 60 million instructions.
func load(name *line) {
	step.empty()
	step.add("load kernel module ")
	step.addLine(name)
	tell()
	result := insert(name, "")
	if err := errno(result); err == errPerm || err == errKeyRejected {
		result = insert(name, signed)
	}
	if errno(result) != errExist {
		rootStage.must(result)
	}
	call(sysUnlink, pathOf(name, ""), 0, 0, 0, 0)
	call(sysUnlink, pathOf(name, signed), 0, 0, 0, 0)
}

func pathOf(name *line, end string) uintptr {
	path.empty()
	path.add(moduleDir)
	path.addLine(name)
	path.add(end)
	return path.zeroEnded()
}

func insert(name *line, end string) uintptr {
	fd := open(pathOf(name, end), readOnly)
	if errno(fd) != 0 {
		return fd
	}
	result := call(sysFinitModule, fd, first(""), 0, 0, 0)
	shut(fd)
	return result
}

// mountRoot mounts the root image. It is not the mount that says what is wrong
// with a damaged one, but it is the first to see it.
func mountRoot() {
	begin("open ", rootImage)
	image := open(first(rootImage), readOnly)
	rootStage.must(image)
	begin("find a loop device (is the kernel module loop there?)", "")
	control := open(first("/dev/loop-control"), readWrite)
	rootStage.must(control)
	number := call(sysIoctl, control, loopGetFree, 0, 0, 0)
	rootStage.must(number)
	shut(control)
	path.empty()
	path.add("/dev/loop")
	path.number(number)
	step.empty()
	step.add("attach " + rootImage + " to ")
	step.addLine(&path)
	tell()
	device := open(path.zeroEnded(), readOnly)
	rootStage.must(device)
	rootStage.must(configure(device, image))
	shut(image)
	begin("mount "+rootImage+" on ", newRoot)
	rootStage.must(call(sysMount, path.zeroEnded(), first(newRoot), second("squashfs"), mountReadOnly|mountNoDev, third("")))
	shut(device) // the mount holds it
}

// giveBack moves the kernel's file systems to the root, and removes what fills
// memory. The loop device holds the image open: without its name it ends with the loop device.
func giveBack() {
	rootStage.mount("/dev", newRoot+"/dev", "", mountMove, "")
	rootStage.mount("/proc", newRoot+"/proc", "", mountMove, "")
	rootStage.mount("/sys", newRoot+"/sys", "", mountMove, "")
	remove(rootImage)
	remove(moduleOrder)
	remove("/init")
}

func remove(file string) {
	begin("remove ", file)
	call(sysUnlink, first(file), 0, 0, 0, 0)
}

// switchRoot makes the mounted tree the root. It is moved over the initramfs,
// not pivoted to: an initramfs can't be unmounted. What runs later can pivot_root
// again, since its root is then a mount below another.
func switchRoot() {
	begin("switch to ", newRoot)
	rootStage.must(call(sysChdir, first(newRoot), 0, 0, 0, 0))
	rootStage.must(call(sysMount, first("."), second("/"), third(""), mountMove, fourth("")))
	rootStage.must(call(sysChroot, first("."), 0, 0, 0, 0))
	rootStage.must(call(sysChdir, first("/"), 0, 0, 0, 0))
}

// become goes on as the program that the root has for it.
func become() {
	begin("execute ", program)
	rootStage.must(execute(program))
}
