# shellcheck shell=sh
# Sourced by the guest's shell: processes with something to show, and what /proc says of every process.

# lab_processes_start: a file that was deleted while open, a pipe, a socket, an inotify descriptor, and a program and a
# working directory on a mounted file system. All of them sleep.
lab_processes_start() {
	mkdir -p /tmp /mnt/x
	mount -t tmpfs none /mnt/x
	cp /bin/busybox /mnt/x/program
	cp /bin/busybox /mnt/x/deleted
	# shellcheck disable=SC2216
	sleep 100000 | cat &
	lab_started cat
	(exec 9>/tmp/gone && rm /tmp/gone && exec sleep 100000) &
	lab_started sleep
	(cd /mnt/x && exec ./program sleep 100000) &
	lab_started program
	(exec env NAME='a value' /mnt/x/deleted sleep 100000) &
	lab_started deleted
	(cd /mnt/x && exec inotifyd true /tmp) &
	lab_started inotifyd
	(exec nc -l -p 99) &
	lab_started nc
	rm /mnt/x/deleted
}

# lab_started NAME: waits until the last process started runs the program NAME and sleeps.
lab_started() {
	while ! grep -q "($1) S" "/proc/$!/stat"; do sleep 1; done
}

# lab_processes: of each process, one after the other, what the tests compare. In a process of its own, so that the
# shell itself is at rest.
lab_processes() {
	sh -c 'for process in /proc/[0-9]*; do
		for file in maps cmdline environ; do
			echo "== ${process#/proc/} $file"
			tr "\0" "\n" <"$process/$file"
		done
		echo "== ${process#/proc/} fd"
		ls -l "$process/fd"
	done'
}
