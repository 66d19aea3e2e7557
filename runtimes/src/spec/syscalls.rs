//! The system calls a tenant may make whatever their arguments, in groups, each
//! with the reason why it is here. What is not here is refused; what depends on
//! arguments is in [`super::seccomp`].
//!
//! Started from moby's default profile and cut to what was recorded of the programs
//! people use (`runtimes/traces`), and what is explained there: nothing else is here.
//! Left out on purpose, besides all that moby leaves out: `ptrace`, `process_vm_*`,
//! `pidfd_getfd`, `kcmp` (other processes), `splice`, `tee`, `vmsplice`, `io_setup` and
//! its family, `memfd_secret`, `modify_ldt`, `remap_file_pages`, the futex calls beyond
//! `futex` (kernel bugs of the last years), message queues, `name_to_handle_at`,
//! `fanotify_*`, `listmount`, `statmount` (the host's file systems), `sync`, `syncfs`
//! (all users' disks), clock adjustment.

/// Calls that only the older ABI of x86_64 has; elsewhere each has a newer form, which is listed, too.
pub const ONLY_X86_64: &str = "access alarm arch_prctl chmod chown creat dup2 epoll_create epoll_wait \
    eventfd fork futimesat getdents getpgrp inotify_init lchown link lstat mkdir mknod open pause \
    pipe poll readlink rename rmdir select signalfd stat symlink time unlink utime utimes vfork";

/// Groups of calls: why they are here, and their names.
pub const GROUPS: &[(&str, &str)] = &[
    (
        "files and directories by path or descriptor",
        "access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 \
         faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown \
         fchownat fcntl fdatasync flock fstat fstatfs fsync ftruncate futimesat getcwd getdents \
         getdents64 lchown link linkat lseek lstat mkdir mkdirat newfstatat open openat openat2 \
         pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat \
         readv rename renameat renameat2 rmdir sendfile stat statfs statx symlink symlinkat \
         sync_file_range truncate umask unlink unlinkat utime utimensat utimes write writev",
    ),
    (
        "extended attributes of own files",
        "fgetxattr flistxattr fremovexattr fsetxattr getxattr lgetxattr listxattr llistxattr \
         lremovexattr lsetxattr removexattr setxattr",
    ),
    (
        "own memory",
        "brk madvise membarrier memfd_create mlock mlock2 mlockall mmap mprotect mremap msync \
         munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect",
    ),
    (
        "processes and threads, short of looking into another one",
        "arch_prctl execve execveat exit exit_group fork getpgid getpgrp getpid getppid \
         getpriority getsid gettid kill pidfd_open pidfd_send_signal prctl restart_syscall rseq \
         set_robust_list set_tid_address setpgid setpriority setsid tgkill tkill vfork wait4 \
         waitid",
    ),
    (
        "scheduling within what the cgroup gives",
        "getcpu sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getparam \
         sched_getscheduler sched_setaffinity sched_setscheduler sched_yield",
    ),
    (
        "signals",
        "pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn \
         rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sigaltstack signalfd signalfd4",
    ),
    (
        "identity: only to itself, as there is no capability",
        "capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setgid \
         setgroups setregid setresgid setresuid setreuid setuid",
    ),
    (
        "limits and figures of oneself",
        "getrandom getrlimit getrusage prlimit64 setrlimit sysinfo times uname",
    ),
    (
        "reading clocks, waiting",
        "alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep \
         setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_settime \
         timerfd_create timerfd_gettime timerfd_settime",
    ),
    (
        "waiting for many descriptors, pipes, events",
        "epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd \
         eventfd2 inotify_add_watch inotify_init inotify_init1 inotify_rm_watch pipe pipe2 poll \
         ppoll pselect6 select",
    ),
    (
        "using sockets (which ones may be opened: see `socket`)",
        "accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom \
         recvmmsg recvmsg sendmmsg sendmsg sendto shutdown",
    ),
    (
        "System V shared memory and semaphores, in an own namespace",
        "semctl semget semop semtimedop shmat shmctl shmdt shmget",
    ),
    (
        "a tenant may restrict itself further",
        "landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp",
    ),
];
