/* Processes that live as long as stated: life PROTOCOL FAMILY ADDRESS PORT MICROSECONDS WHEN COUNT PAUSE
 *
 * COUNT times: fork and exec a process that sends one packet (a TCP connect that is not waited for, or a datagram)
 * WHEN microseconds after its start (-1: at a random moment), and exits MICROSECONDS after its start. Start is before
 * the fork, the end is when it has been waited for. A line for each: pid, source port, microseconds it really lived.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void until(int64_t moment)
{
    struct timespec t = {moment / 1000000, moment % 1000000 * 1000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL))
        ;
}

static int child(char **argv)
{
    int family = argv[3][0] == '6' ? AF_INET6 : AF_INET, tcp = argv[2][0] == 't';
    int64_t begun = atoll(argv[6]), when = atoll(argv[7]), end = atoll(argv[8]);
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(argv[5]))};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[5]))};
    struct sockaddr *to = family == AF_INET6 ? (struct sockaddr *)&six : (struct sockaddr *)&four;
    socklen_t size = family == AF_INET6 ? sizeof six : sizeof four;
    inet_pton(family, argv[4], family == AF_INET6 ? (void *)&six.sin6_addr : (void *)&four.sin_addr);
    until(begun + when);
    int fd = socket(family, (tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK, 0);
    if (tcp)
        connect(fd, to, size);
    else
        sendto(fd, "x", 1, 0, to, size);
    union { struct sockaddr_in four; struct sockaddr_in6 six; } me;
    size = sizeof me;
    getsockname(fd, (struct sockaddr *)&me, &size);
    dprintf(1, "%d %d ", getpid(), ntohs(family == AF_INET6 ? me.six.sin6_port : me.four.sin_port));
    until(begun + end);
    _exit(0);
}

int main(int argc, char **argv)
{
    if (argc == 9 && !strcmp(argv[1], "child"))
        return child(argv);
    if (argc != 9)
        return 2;
    int64_t life = atoll(argv[5]), when = atoll(argv[6]), pause = atoll(argv[8]);
    srandom(getpid());
    for (int left = atoi(argv[7]); left > 0; left--) {
        char begun[24], moment[24];
        int64_t start = now();
        snprintf(begun, sizeof begun, "%lld", (long long)start);
        snprintf(moment, sizeof moment, "%lld", (long long)(when < 0 ? random() % life : when));
        pid_t pid = fork();
        if (!pid) {
            execl("/proc/self/exe", "life", "child", argv[1], argv[2], argv[3], argv[4], begun, moment, argv[5], NULL);
            _exit(1);
        }
        waitpid(pid, NULL, 0);
        dprintf(1, "%lld\n", (long long)(now() - start));
        until(now() + pause);
    }
    return 0;
}
