/* For the guest: pages in every condition that an address of a process can be in, and what the kernel says of them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_HWPOISON
#define MADV_HWPOISON 100
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

enum { PAGE = 4096, HUGE_PAGE = 2 << 20 };

static const uint64_t SWAPPED = 1ull << 62;

static void *map(size_t bytes, int file)
{
	void *made = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | (file < 0 ? MAP_ANONYMOUS : 0), file, 0);

	if (made == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return made;
}

/* Its entry of /proc/self/pagemap: bit 63 present, bit 62 swapped, then the frame, or the area and place there. */
static uint64_t entry(void *page)
{
	static int pagemap = -1;
	uint64_t value;

	if (pagemap < 0)
		pagemap = open("/proc/self/pagemap", O_RDONLY);
	if (pread(pagemap, &value, sizeof(value), (uintptr_t)page / PAGE * sizeof(value)) != sizeof(value)) {
		perror("pagemap");
		exit(1);
	}
	return value;
}

static void show(const char *condition, void *page)
{
	printf("%s %#lx %#lx\n", condition, (unsigned long)page, (unsigned long)entry(page));
}

/* The frames that the kernel marked after memory errors: KPF_HWPOISON of /proc/kpageflags. */
static int list_failed(void)
{
	static uint64_t flags[1 << 15];
	int file = open("/proc/kpageflags", O_RDONLY);
	uint64_t frame = 0;
	ssize_t got;

	while ((got = read(file, flags, sizeof(flags))) > 0)
		for (ssize_t at = 0; at < got / (ssize_t)sizeof(*flags); at++, frame++)
			if (flags[at] >> 19 & 1)
				printf("%#lx\n", (unsigned long)frame);
	if (got < 0)
		perror("kpageflags");
	return got < 0;
}

static void survive(int signal)
{
	(void)signal;
}

/* Has the kernel do what it does when memory fails; 0 when it was not built with CONFIG_MEMORY_FAILURE. */
static int fail(void *page)
{
	/* Since 6.11 it tells the process at once, before that when it is touched. */
	signal(SIGBUS, survive);
	if (!madvise(page, PAGE, MADV_HWPOISON))
		return 1;
	if (errno != EINVAL) {
		perror("MADV_HWPOISON");
		exit(1);
	}
	return 0;
}

/* With an argument: what failed, of all memory. */
int main(int argc, char **argv)
{
	(void)argv;
	if (argc > 1)
		return list_failed();

	char *memory = map(5 * PAGE, -1);
	char *file = map(4 * PAGE, open("/proc/self/exe", O_RDONLY));
	char *huge = map(2 * HUGE_PAGE, -1);

	huge += -(uintptr_t)huge % HUGE_PAGE;
	madvise(huge, HUGE_PAGE, MADV_HUGEPAGE);
	strcpy(memory, "a page of its own");
	strcpy(huge, "a huge page");
	strcpy(memory + PAGE, "to be closed");
	mprotect(memory + PAGE, PAGE, PROT_NONE);
	/* Anything but zeros, which some swap devices keep without a place. */
	memset(memory + 2 * PAGE, 0x5a, PAGE);
	while (!(entry(memory + 2 * PAGE) & SWAPPED))
		if (madvise(memory + 2 * PAGE, PAGE, MADV_PAGEOUT)) {
			perror("madvise");
			return 1;
		}
	strcpy(memory + 4 * PAGE, "to be lost");
	if (fail(memory + 4 * PAGE))
		show("failed", memory + 4 * PAGE);
	show("present", memory);
	show("closed", memory + PAGE);
	show("swapped", memory + 2 * PAGE);
	show("untouched", memory + 3 * PAGE);
	show("file", file + 2 * PAGE);
	show("huge", huge);
	/* Whoever reads it sees its end. */
	fclose(stdout);
	for (;;)
		pause();
}
