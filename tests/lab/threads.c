/* A process of four threads with names of their own, for the guest: something that thread lists must show. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

static void *wait_forever(void *number)
{
	char name[16];

	snprintf(name, sizeof(name), "lab thread %d", (int)(intptr_t)number);
	pthread_setname_np(pthread_self(), name);
	for (;;)
		pause();
}

int main(void)
{
	pthread_t thread;

	for (intptr_t number = 1; number < 4; number++)
		if (pthread_create(&thread, NULL, wait_forever, (void *)number))
			return 1;
	wait_forever((void *)0);
}
