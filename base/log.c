/* log.c - formats a line whole and writes it with one write(2), so that lines of several threads and processes sharing a
 * terminal never mix. */
#include "base/log.h"
#include "base/status.h"

#include <execinfo.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static atomic_int level_now = LOG_INFO;
static _Thread_local char thread_name[32];

void log_set_level(enum log_level level) { atomic_store(&level_now, (int)level); }

int log_level_parse(const char *name) {
    static const char *const names[] = {"error", "warn", "info", "debug"};
    for (int i = 0; i < 4; i++)
        if (!strcmp(name, names[i])) return i;
    return ERR_INVALID;
}

void log_set_name(const char *name) {
    char shown[16]; /* all that the kernel keeps */
    snprintf(thread_name, sizeof thread_name, "%s", name);
    snprintf(shown, sizeof shown, "%.15s", name);
    pthread_setname_np(pthread_self(), shown);
}

static void write_line(const char *tag, const char *fmt, va_list ap) {
    char line[1200];
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    localtime_r(&ts.tv_sec, &tm);
    int n = snprintf(line, sizeof line, "%02d:%02d:%02d.%03ld %s%s%s%s", tm.tm_hour, tm.tm_min, tm.tm_sec,
                     ts.tv_nsec / 1000000, tag, thread_name[0] ? "[" : "", thread_name, thread_name[0] ? "] " : "");
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    if (m < 0) m = 0;
    size_t len = (size_t)n + (size_t)m;
    if (len > sizeof line - 2) len = sizeof line - 2;
    line[len++] = '\n';
    ssize_t done = write(STDERR_FILENO, line, len);
    (void)done; /* nowhere left to complain to */
}

void log_line(enum log_level level, const char *fmt, ...) {
    static const char *const tags[] = {"error: ", "warning: ", "", "debug: "};
    if ((int)level > atomic_load_explicit(&level_now, memory_order_relaxed)) return;
    va_list ap;
    va_start(ap, fmt);
    write_line(tags[level], fmt, ap);
    va_end(ap);
}

void log_bug(const char *file, int line, const char *fmt, ...) {
    char where[96];
    snprintf(where, sizeof where, "BUG at %s:%d: ", file, line);
    va_list ap;
    va_start(ap, fmt);
    write_line(where, fmt, ap);
    va_end(ap);
    void *frames[32];
    backtrace_symbols_fd(frames, backtrace(frames, 32), STDERR_FILENO);
    abort();
}

void die(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    write_line("fatal: ", fmt, ap);
    va_end(ap);
    exit(1);
}
