/* init/version.c, init/main.c: who this kernel is. */

struct new_utsname {
	char sysname[65];
	char nodename[65];
	char release[65];
	char version[65];
	char machine[65];
	char domainname[65];
};

struct uts_namespace {
	struct new_utsname name;
	void *user_ns;
};

extern void *sys_call_table[16] __rodata;
extern const char linux_banner[BANNER_LEN] __rodata;
extern struct uts_namespace init_uts_ns __data;
extern char *saved_command_line __bss;

void cpu_startup_entry(void) { do_idle(); }
void rest_init(void) { cpu_startup_entry(); }
void start_kernel(void) { rest_init(); }
void start_secondary(void) { cpu_startup_entry(); }
void secondary_startup_64(void) { start_kernel(); start_secondary(); }
