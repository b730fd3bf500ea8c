/* pair.h - a backend beside ref, for tests that compare the two; one pair per test program. */
#pragma once
#include "tests/unit/kernels/kit.h"

static struct backend *ref, *fast; /* fast: of the instruction set that the loop test names; NULL: cannot run here */

static void open_isa(int i) {
    kit_seed = 12345;
    ref = kit_open("ref", 1);
    fast = kit_open(kit_isas[i], 2);
}

static void close_isa(void) {
    backend_close(ref);
    backend_close(fast);
    kit_clear(0);
}

#define NEAR(got, want, bound, ...)                                                                                      \
    do {                                                                                                                 \
        double got_ = (got), want_ = (want), bound_ = (bound);                                                           \
        if (!(fabs(got_ - want_) <= bound_)) {                                                                           \
            char text_[256];                                                                                             \
            snprintf(text_, sizeof text_, __VA_ARGS__);                                                                  \
            ck_abort_msg("%s: got %.9g, want %.9g within %.3g", text_, got_, want_, bound_);                             \
        }                                                                                                                \
    } while (0)
