/* kernel/vmcore_info.c: what the kernel writes down for its own crash dump. */

extern unsigned char *vmcoreinfo_data __bss;
extern unsigned long vmcoreinfo_size __bss;
extern u32 *vmcoreinfo_note __bss;
