# What compilers expect of a C library: memcpy, memmove, memset, memcmp, bcmp (System V ABI).
# In assembly, because a compiler turns such loops into calls of these very functions.

.section .text.memory, "ax", @progbits

.globl memcpy
.globl memmove
memmove:
    cmp rdx, 32
    jbe 10f
    mov rax, rdi
    sub rax, rsi
    cmp rax, rdx
    jb 20f
memcpy:
    cmp rdx, 32
    ja 14f
10: mov rax, rdi
    cmp edx, 16
    jae 13f
    cmp edx, 8
    jae 12f
    cmp edx, 4
    jae 11f
    test edx, edx
    je 15f
    mov rcx, rdx
    shr rcx, 1
    movzx r8d, byte ptr [rsi]
    movzx r9d, byte ptr [rsi + rcx]
    movzx r10d, byte ptr [rsi + rdx - 1]
    mov [rdi], r8b
    mov [rdi + rcx], r9b
    mov [rdi + rdx - 1], r10b
    ret
11: mov ecx, [rsi]
    mov r8d, [rsi + rdx - 4]
    mov [rdi], ecx
    mov [rdi + rdx - 4], r8d
    ret
12: mov rcx, [rsi]
    mov r8, [rsi + rdx - 8]
    mov [rdi], rcx
    mov [rdi + rdx - 8], r8
    ret
13: vmovdqu xmm0, [rsi]
    vmovdqu xmm1, [rsi + rdx - 16]
    vmovdqu [rdi], xmm0
    vmovdqu [rdi + rdx - 16], xmm1
    ret
    # Forwards; right as well where the source overlaps from above.
14: mov rax, rdi
    cmp rdx, 1024
    ja 17f
    vmovdqu ymm1, [rsi + rdx - 32]
    lea rcx, [rdx - 32]
    xor r8d, r8d
16: vmovdqu ymm0, [rsi + r8]
    vmovdqu [rdi + r8], ymm0
    add r8, 32
    cmp r8, rcx
    jb 16b
    vmovdqu [rdi + rdx - 32], ymm1
    vzeroupper
15: ret
17: mov rcx, rdx
    rep movsb
    ret
    # Backwards, where the destination overlaps the source from above.
20: mov rax, rdi
    vmovdqu ymm1, [rsi]
    mov rcx, rdx
21: vmovdqu ymm0, [rsi + rcx - 32]
    vmovdqu [rdi + rcx - 32], ymm0
    sub rcx, 32
    cmp rcx, 32
    ja 21b
    vmovdqu [rdi], ymm1
    vzeroupper
    ret

.globl memset
memset:
    mov rax, rdi
    movzx esi, sil
    mov rcx, 0x0101010101010101
    imul rsi, rcx
    cmp rdx, 32
    ja 33f
    cmp edx, 16
    jae 32f
    cmp edx, 8
    jae 31f
    test edx, edx
    je 35f
30: mov [rdi + rdx - 1], sil
    dec edx
    jnz 30b
    ret
31: mov [rdi], rsi
    mov [rdi + rdx - 8], rsi
    ret
32: vmovq xmm0, rsi
    vpbroadcastq xmm0, xmm0
    vmovdqu [rdi], xmm0
    vmovdqu [rdi + rdx - 16], xmm0
    ret
33: cmp rdx, 1024
    ja 36f
    vmovq xmm0, rsi
    vpbroadcastq ymm0, xmm0
    lea rcx, [rdx - 32]
    xor r8d, r8d
34: vmovdqu [rdi + r8], ymm0
    add r8, 32
    cmp r8, rcx
    jb 34b
    vmovdqu [rdi + rdx - 32], ymm0
    vzeroupper
35: ret
36: mov r8, rax
    mov rcx, rdx
    mov eax, esi
    rep stosb
    mov rax, r8
    ret

.globl memcmp
.globl bcmp
memcmp:
bcmp:
    xor ecx, ecx
40: lea r8, [rcx + 8]
    cmp r8, rdx
    ja 41f
    mov rax, [rdi + rcx]
    mov r9, [rsi + rcx]
    cmp rax, r9
    jne 42f
    mov rcx, r8
    jmp 40b
41: cmp rcx, rdx
    jae 43f
    movzx eax, byte ptr [rdi + rcx]
    movzx r9d, byte ptr [rsi + rcx]
    sub eax, r9d
    jne 44f
    inc rcx
    jmp 41b
42: bswap rax
    bswap r9
    cmp rax, r9
    sbb eax, eax
    or eax, 1
    ret
43: xor eax, eax
44: ret
