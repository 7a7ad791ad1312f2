/* Executes the program of a sandbox, so that no file of the host is the executable of the process that does it.
 *
 * The launcher runs in an interpreter of the host. If a launcher process calls execve(2), the image can execute that
 * interpreter through /proc/self/exe: as the command, as the interpreter of a script, or as the loader of an ELF file.
 * This program is executed first, from a sealed memfd. /proc/self/exe then leads to the memfd and to nothing else.
 *
 * Arguments: the number of a descriptor; the paths to try, in order; an empty string; the arguments of the program.
 * The descriptor is a pipe. A successful execve(2) closes it. If all paths fail, their errno is written to it as one byte.
 *
 * The seccomp filter of the sandbox is already active. It must allow fcntl(2) and execve(2). Without write(2) this program
 * cannot report a failure to the launcher.
 * scripts/build-trampolines makes the ELF files beside this one.
 */

#if defined(__x86_64__)
enum { EXECVE = 59, FCNTL = 72, WRITE = 1, EXIT_GROUP = 231 };
static long call(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}
__asm__(".globl _start\n_start:\n mov %rsp, %rdi\n and $-16, %rsp\n call start\n");

#elif defined(__i386__)
enum { EXECVE = 11, FCNTL = 55, WRITE = 4, EXIT_GROUP = 252 };
static long call(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}
__asm__(".globl _start\n_start:\n mov %esp, %eax\n and $-16, %esp\n sub $12, %esp\n push %eax\n call start\n");

#elif defined(__aarch64__)
enum { EXECVE = 221, FCNTL = 25, WRITE = 64, EXIT_GROUP = 94 };
static long call(long number, long a, long b, long c)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
}
__asm__(".globl _start\n_start:\n mov x0, sp\n bl start\n");

#elif defined(__arm__)
enum { EXECVE = 11, FCNTL = 55, WRITE = 4, EXIT_GROUP = 248 };
static long call(long number, long a, long b, long c)
{
    register long r7 __asm__("r7") = number;
    register long r0 __asm__("r0") = a;
    register long r1 __asm__("r1") = b;
    register long r2 __asm__("r2") = c;
    __asm__ volatile("svc #0" : "+r"(r0) : "r"(r7), "r"(r1), "r"(r2) : "memory");
    return r0;
}
__asm__(".globl _start\n_start:\n mov r0, sp\n bic r1, r0, #7\n mov sp, r1\n bl start\n");

#elif defined(__riscv)
enum { EXECVE = 221, FCNTL = 25, WRITE = 64, EXIT_GROUP = 94 };
static long call(long number, long a, long b, long c)
{
    register long a7 __asm__("a7") = number;
    register long a0 __asm__("a0") = a;
    register long a1 __asm__("a1") = b;
    register long a2 __asm__("a2") = c;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2) : "memory");
    return a0;
}
__asm__(".globl _start\n_start:\n mv a0, sp\n call start\n");

#elif defined(__loongarch64)
enum { EXECVE = 221, FCNTL = 25, WRITE = 64, EXIT_GROUP = 94 };
static long call(long number, long a, long b, long c)
{
    register long a7 __asm__("a7") = number;
    register long a0 __asm__("a0") = a;
    register long a1 __asm__("a1") = b;
    register long a2 __asm__("a2") = c;
    __asm__ volatile("syscall 0" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2)
                     : "t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "memory");
    return a0;
}
__asm__(".globl _start\n_start:\n move $a0, $sp\n bl start\n");

#elif defined(__powerpc64__)
enum { EXECVE = 11, FCNTL = 55, WRITE = 4, EXIT_GROUP = 234 };
static long call(long number, long a, long b, long c)
{
    register long r0 __asm__("r0") = number;
    register long r3 __asm__("r3") = a;
    register long r4 __asm__("r4") = b;
    register long r5 __asm__("r5") = c;
    /* On failure the kernel sets the summary overflow bit and returns the errno in r3. */
    __asm__ volatile("sc\n bns+ 1f\n neg %0, %0\n1:" : "+r"(r3), "+r"(r0), "+r"(r4), "+r"(r5)
                     : : "r6", "r7", "r8", "r9", "r10", "r11", "r12", "cr0", "ctr", "memory");
    return r3;
}
__asm__(".globl _start\n_start:\n mr 3, 1\n li 0, 0\n stdu 0, -64(1)\n b start\n");

#elif defined(__s390x__)
enum { EXECVE = 11, FCNTL = 55, WRITE = 4, EXIT_GROUP = 248 };
static long call(long number, long a, long b, long c)
{
    register long r1 __asm__("r1") = number;
    register long r2 __asm__("r2") = a;
    register long r3 __asm__("r3") = b;
    register long r4 __asm__("r4") = c;
    __asm__ volatile("svc 0" : "+d"(r2) : "d"(r1), "d"(r3), "d"(r4) : "memory");
    return r2;
}
__asm__(".globl _start\n_start:\n lgr %r2, %r15\n aghi %r15, -160\n brasl %r14, start\n");

#else
#error "no system calls are written down for this machine"
#endif

enum { F_SETFD = 2, FD_CLOEXEC = 1, ENOENT = 2, ENOTDIR = 20, NOT_EXECUTED = 127 };

/* stack: the count of the arguments, the arguments, NULL, the environment, NULL (execve(2)) */
__attribute__((noreturn, used)) void start(long *stack)
{
    char **paths = (char **)(stack + 1);
    char **environment = paths + stack[0] + 1;
    char **arguments = paths;
    long report = 0, refused = -ENOENT;

    while (*arguments && **arguments)
        arguments++;
    if (!*arguments) /* A link of the image to /proc/self/exe has executed this program as the command. */
        goto end;
    *arguments++ = 0;
    for (char *digit = *paths++; *digit; digit++)
        report = 10 * report + *digit - '0';
    call(FCNTL, report, F_SETFD, FD_CLOEXEC);
    for (; *paths; paths++) {
        long result = call(EXECVE, (long)*paths, (long)arguments, (long)environment);
        /* Report what a shell reports: the first error other than a missing file. */
        if (refused == -ENOENT && result != -ENOTDIR)
            refused = result;
    }
    unsigned char byte = (unsigned char)-refused;
    call(WRITE, report, (long)&byte, 1);
end:
    for (;;)
        call(EXIT_GROUP, NOT_EXECUTED, 0, 0);
}
