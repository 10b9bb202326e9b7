// Fibers with stacks of their own, switched by saving the registers that calls preserve.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

constexpr size_t STACK_BYTES = 256 << 10;

#if defined(__x86_64__) || defined(__aarch64__)

struct Context {
    void* sp;
};
/// Saves the registers on this stack and its top in `*from`, and continues where `to` was saved.
extern "C" __attribute__((visibility("hidden"))) void emu_switch(void** from, void* to);
#if defined(__x86_64__)
__asm__(R"(
.text
.globl emu_switch
.hidden emu_switch
.type emu_switch,@function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emu_switch,.-emu_switch
)");
constexpr size_t SAVED_WORDS = 8;  // six registers, the return address, alignment
constexpr size_t RETURN_WORD = 6;
#else
__asm__(R"(
.text
.globl emu_switch
.hidden emu_switch
.type emu_switch,%function
emu_switch:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x2, sp
    str x2, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size emu_switch,.-emu_switch
)");
constexpr size_t SAVED_WORDS = 20;
constexpr size_t RETURN_WORD = 11;
#endif

inline void context_start(Context& c, char* stack, void (*entry)()) {
    // As if `entry` had been called: on x86-64 the stack is then 8 bytes off a multiple of 16.
    uintptr_t* top = reinterpret_cast<uintptr_t*>(stack + STACK_BYTES) - SAVED_WORDS;
    for (size_t i = 0; i < SAVED_WORDS; i++) top[i] = 0;
    top[RETURN_WORD] = reinterpret_cast<uintptr_t>(entry);
    c.sp = top;
}
inline void context_switch(Context& from, Context& to) { emu_switch(&from.sp, to.sp); }

#else

struct Context {
    ucontext_t u;
};
inline void context_start(Context& c, char* stack, void (*entry)()) {
    getcontext(&c.u);
    c.u.uc_stack.ss_sp = stack;
    c.u.uc_stack.ss_size = STACK_BYTES;
    c.u.uc_link = nullptr;
    makecontext(&c.u, entry, 0);
}
inline void context_switch(Context& from, Context& to) { swapcontext(&from.u, &to.u); }

#endif
