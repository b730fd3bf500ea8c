/* log_ucx.c - see log_ucx.h. UCX also takes over the signals of crashes when it is loaded; they are given back, so that a core
 * dump or a sanitizer's report of a worker is its own. */
#include "fabric/log_ucx.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <ucs/debug/debug.h>
#include <ucs/debug/log_def.h>

#include "base/log.h"

/* Its errors are not ours: what they mean here is known where a call fails or a link breaks, and logged there. */
static ucs_log_func_rc_t forward(const char *file, unsigned line, const char *function, ucs_log_level_t level,
                                 const ucs_log_component_config_t *component, const char *format, va_list ap) {
    char text[512];
    (void)function, (void)component;
    vsnprintf(text, sizeof text, format, ap);
    log_line(level <= UCS_LOG_LEVEL_WARN ? LOG_WARN : LOG_DEBUG, "ucx: %s (%s:%u)", text, file, line);
    return UCS_LOG_FUNC_RC_STOP;
}

void log_ucx_adopt(void) {
    static const int crashes[] = {SIGILL, SIGSEGV, SIGBUS, SIGFPE};
    static atomic_flag done = ATOMIC_FLAG_INIT;
    if (atomic_flag_test_and_set(&done)) return;
    ucs_log_push_handler(forward);
    for (size_t i = 0; i < sizeof crashes / sizeof *crashes; i++) ucs_debug_disable_signal(crashes[i]);
}
