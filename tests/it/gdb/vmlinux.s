# A kernel in the shape that matters to a debugger: text and data high up, per-CPU variables linked at 0.
	.section .text, "ax"
	.globl _text, linux_banner, __per_cpu_offset
_text:
	nop
	.org 0x40
linux_banner:
	.asciz "Linux version"
	.org 0x100
__per_cpu_offset:
	.quad 0, 0
	.type linux_banner, @object
	.type __per_cpu_offset, @object
	.size __per_cpu_offset, 16

	.section .data, "aw"
	.globl init_task
	.type init_task, @object
init_task:
	.asciz "swapper"

	.section .data..percpu, "aw"
	.globl current_task
	.org 0x80
	.type current_task, @object
current_task:
	.quad 0
