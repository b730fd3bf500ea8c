/* log.h - one event per line on stderr; level = volume. Safe from any thread.
 *
 * Four outcomes, each with one meaning: BUG our own invariant broke (abort with a trace); die this process cannot start
 * (one clear line, exit 1); log_error at the first detection of a fault; a plain return everywhere else. */
#pragma once

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level);              /* process-wide; default LOG_INFO */
int  log_level_parse(const char *name);                /* "error|warn|info|debug" or ERR_INVALID */
/* Names the calling thread in its lines, e.g. "worker 2". Copied, cut at 31 bytes. Thread-local: embedded workers share a
 * process. gdb, top -H and /proc show the first 15 bytes as the thread's name, and the main thread's as the process's. */
void log_set_name(const char *name);

void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

_Noreturn void log_bug(const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
_Noreturn void die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
#define BUG(...) log_bug(__FILE__, __LINE__, __VA_ARGS__)
