# shellcheck shell=sh
# Sourced by the guest's shell: what the kernel itself says, for the tests to compare with.

# lab_tasks: one line per thread: pid tgid ppid state comm. Builtins only: listing makes no task of its own.
lab_tasks() {
	for task in /proc/[0-9]*/task/[0-9]*; do
		[ -r "$task/status" ] || continue
		name='' state='' tgid='' pid='' ppid=''
		while IFS='	' read -r key value; do
			case $key in
			Name:) name=$value ;;
			State:) state=${value%% *} ;;
			Tgid:) tgid=$value ;;
			Pid:) pid=$value ;;
			PPid:) ppid=$value; break ;;
			esac
		done 2>/dev/null <"$task/status"
		[ -n "$pid" ] && echo "$pid $tgid $ppid $state $name"
	done
}
