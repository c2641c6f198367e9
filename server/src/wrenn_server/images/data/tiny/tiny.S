/*
 * The smallest guest that is of use: 1.5 KB that any PVH-capable VMM (Firecracker, QEMU) boots on any working KVM.
 * It tells its kernel command line on the serial port, then counts aloud about ten times a second until it reads a
 * `q`, which ends the VM. The KVM probe and the tests of the Firecracker driver use it: its counter shows whether a
 * VM stands still (paused), goes on (resumed), or goes on twice from one number (two restores of one snapshot).
 *
 * Entered as the PVH boot protocol has it: 32-bit protected mode, flat segments, no paging, interrupts off, no stack,
 * EBX = address of struct hvm_start_info.
 */

	.set	COM1_DATA,		0x3f8
	.set	COM1_LINE_STATUS,	0x3fd
	.set	LINE_STATUS_RECEIVED,	1
	.set	KEYBOARD_COMMAND,	0x64
	.set	KEYBOARD_PULSE_RESET,	0xfe

	.set	START_INFO_MAGIC,	0x336ec578
	.set	START_INFO_CMDLINE,	24

	.set	NOTE_PHYS32_ENTRY,	18	/* XEN_ELFNOTE_PHYS32_ENTRY */
	.set	TICK_CYCLES,		0x10000000	/* ~0.1 s of a 2.5 GHz time stamp counter */

	.section .note.pvh, "a", @note
	.balign	4
	.long	4			/* length of the name */
	.long	4			/* length of the value */
	.long	NOTE_PHYS32_ENTRY
	.asciz	"Xen"
	.long	start

	.section .text, "ax"
	.code32
	.globl	start
start:
	cld
	movl	$stack_end, %esp
	movl	%ebx, %ebp

	movl	$banner, %esi
	call	print
	cmpl	$START_INFO_MAGIC, (%ebp)
	jne	cmdline_done
	movl	START_INFO_CMDLINE(%ebp), %esi
	testl	%esi, %esi
	jz	cmdline_done
	call	print
cmdline_done:
	call	newline

tick:
	incl	counter
	movl	$tick_text, %esi
	call	print
	movl	counter, %eax
	call	print_hex
	call	newline

	movw	$COM1_LINE_STATUS, %dx
	inb	%dx, %al
	testb	$LINE_STATUS_RECEIVED, %al
	jz	wait
	movw	$COM1_DATA, %dx
	inb	%dx, %al
	cmpb	$'q', %al
	je	quit

wait:
	rdtsc
	movl	%eax, %edi
wait_more:
	pause
	rdtsc
	subl	%edi, %eax
	cmpl	$TICK_CYCLES, %eax
	jb	wait_more
	jmp	tick

quit:
	movl	$bye, %esi
	call	print
	movb	$KEYBOARD_PULSE_RESET, %al	/* the end under Firecracker */
	outb	%al, $KEYBOARD_COMMAND
	lidt	empty_idt			/* elsewhere: a fault that nobody handles */
	ud2

/* Prints the NUL-terminated string at ESI. Clobbers AL, DX, ESI. */
print:
	movw	$COM1_DATA, %dx
print_next:
	lodsb
	testb	%al, %al
	jz	print_done
	outb	%al, %dx
	jmp	print_next
print_done:
	ret

/* Clobbers AL, DX. */
newline:
	movw	$COM1_DATA, %dx
	movb	$'\n', %al
	outb	%al, %dx
	ret

/* Prints EAX as eight hexadecimal digits. Clobbers EAX, EBX, ECX, EDX. */
print_hex:
	movl	%eax, %ebx
	movl	$8, %ecx
	movw	$COM1_DATA, %dx
print_digit:
	roll	$4, %ebx
	movl	%ebx, %eax
	andl	$15, %eax
	movb	digits(%eax), %al
	outb	%al, %dx
	loop	print_digit
	ret

	.section .data, "aw"
banner:		.asciz	"TINY-PVH cmdline="
tick_text:	.asciz	"tick "
bye:		.asciz	"bye\n"
digits:		.ascii	"0123456789abcdef"
	.balign	4
counter:	.long	0
empty_idt:	.word	0
		.long	0

	.section .bss
	.skip	4096
stack_end:

	.section .note.GNU-stack, "", @progbits
