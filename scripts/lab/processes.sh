# shellcheck shell=sh
# Sourced by the guest's shell: processes with something to show, and what /proc says of every process.

# lab_processes_start: a file that was deleted while open, a pipe, a socket, and two programs on a mounted file system,
# one of which is deleted. All of them sleep.
lab_processes_start() {
	mkdir -p /mnt
	mount -t tmpfs none /mnt
	mkdir -p /mnt/kept /mnt/gone
	# What busybox does goes by the name it is called by.
	cp /bin/busybox /mnt/kept/sleep
	cp /bin/busybox /mnt/gone/sleep
	# shellcheck disable=SC2216
	sleep 100000 | cat &
	lab_started cat
	(exec 9>/tmp/gone && rm /tmp/gone && exec sleep 100000) &
	lab_started sleep
	(cd /mnt/kept && exec ./sleep 100000) &
	lab_started sleep
	(exec env NAME='a value' /mnt/gone/sleep 100000) &
	lab_started sleep
	(exec nc -l -p 99) &
	lab_started nc
	rm /mnt/gone/sleep
}

# lab_pages: starts the process with pages in every condition; its pid, and what it says of them. Needs the module brd.
lab_pages() {
	echo madvise >/sys/kernel/mm/transparent_hugepage/enabled
	mkswap /dev/ram0 >/dev/null
	swapon /dev/ram0
	mkfifo /tmp/pages
	lab-pages >/tmp/pages &
	echo $!
	cat /tmp/pages
}

# lab_started NAME: waits until the last process started runs the program NAME, and sleeps.
lab_started() {
	while ! grep -q "($1) S" "/proc/$!/stat"; do sleep 1; done
}

# lab_processes: of each process, one after the other, what the tests compare. In a process of its own, so that the
# shell itself is at rest.
lab_processes() {
	sh -c 'for process in /proc/[0-9]*; do
		for file in maps cmdline environ; do
			echo "== ${process#/proc/} $file"
			# Of a kernel thread, some kernels open no environment.
			{ tr "\0" "\n" <"$process/$file"; } 2>/dev/null
		done
		echo "== ${process#/proc/} fd"
		ls -l "$process/fd"
	done'
}
