# The one way in and out of the image. SDM vol. 3D: EENTER and EEXIT (40.4), TCS (38.8).
#
# On entry: RAX = CSSA, RBX = TCS, RCX = where EEXIT returns to; RDI = address of the host's Call;
# R9 = 0, or where to jump instead of executing EEXIT (a simulator's shortcut: on hardware the jump
# faults and the enclave is dead). Nothing else is believed, and no stack but the thread's own used.
#
# Below the TCS lie two SSA pages, below these the stack. Its top 128 bytes keep what belongs to
# the host:  -8 RSP  -16 RBP  -24 RCX  -32 R12  -40 R13  -48 R14  -56 R15  -64 R9  -72 MXCSR  -80 FCW

.section .text.entry, "ax", @progbits
.globl enclave_entry
enclave_entry:
    # Entered again in the middle of an exception: there is no handler, so there is no way on.
    test rax, rax
    jne 9f
    lfence
    lea r10, [rbx - {ssa_bytes}]
    mov [r10 - 8], rsp
    mov [r10 - 16], rbp
    mov [r10 - 24], rcx
    mov [r10 - 32], r12
    mov [r10 - 40], r13
    mov [r10 - 48], r14
    mov [r10 - 56], r15
    mov [r10 - 64], r9
    stmxcsr [r10 - 72]
    fnstcw [r10 - 80]
    lea rsp, [r10 - 128]
    xor ebp, ebp
    # Direction, alignment check and trap flag off; rounding and exception masks as Rust expects.
    push 2
    popfq
    push 0x1f80
    ldmxcsr [rsp]
    add rsp, 8
    fninit
    vzeroall
    call enclave_main

    # Wipe what the call left on the stack: page by page downwards, until four pages in a row are
    # zero as they were before. A frame that skips more than that without touching it stays.
    xor eax, eax
    lea rdx, [rsp - 0xf80]
    mov rdi, rdx
    mov ecx, 0xf80 / 8
    rep stosq
    lea r8, [rsp + 128 - {stack_bytes}]
    xor r11d, r11d
2:  cmp rdx, r8
    jbe 6f
    sub rdx, 0x1000
    mov ecx, 0x1000
3:  vmovdqa ymm0, [rdx + rcx - 32]
    vpor ymm0, ymm0, [rdx + rcx - 64]
    vpor ymm0, ymm0, [rdx + rcx - 96]
    vpor ymm0, ymm0, [rdx + rcx - 128]
    vptest ymm0, ymm0
    jnz 4f
    sub ecx, 128
    jnz 3b
    inc r11d
    cmp r11d, 4
    jb 2b
    jmp 6f
4:  mov rdi, rdx
    mov ecx, 512
    rep stosq
    xor r11d, r11d
    jmp 2b

6:  lea r10, [rsp + 128]
    fninit
    fldcw [r10 - 80]
    ldmxcsr [r10 - 72]
    mov r9, [r10 - 64]
    mov r15, [r10 - 56]
    mov r14, [r10 - 48]
    mov r13, [r10 - 40]
    mov r12, [r10 - 32]
    mov rbx, [r10 - 24]
    mov rbp, [r10 - 16]
    mov rsp, [r10 - 8]
    vzeroall
    xor ecx, ecx
    xor esi, esi
    xor edi, edi
    xor r8d, r8d
    xor r10d, r10d
    xor r11d, r11d
    test r9, r9
    jne 7f
    xor edx, edx
    mov eax, 4
    enclu
    ud2
    # The thunk is the host's: it must not lie inside, where it would be a jump of its choice.
7:  lea rax, [rip + __image_base]
    mov rdx, r9
    sub rdx, rax
    cmp rdx, {elrange_bytes}
    jb 9f
    xor eax, eax
    xor edx, edx
    jmp r9
9:  ud2
