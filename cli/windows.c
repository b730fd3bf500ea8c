/* windows.c - see windows.h. */
#include "cli/windows.h"

#include <sched.h>
#include <stdlib.h>

#include "cli/cli.h"

enum { MOST_TOKENS = 1 << 26 };

static int32_t begins_with(const struct tokenizer *t) {
    struct token_list with = {0};
    struct why why;
    int32_t id = -1;
    if (tokenizer_encode(t, "a", 1, true, false, 16, &with, &why) >= 0 && with.len > 1 && tokenizer_is_special(t, with.ids[0]))
        id = with.ids[0];
    token_list_clear(&with);
    return id;
}

/* The first `most` tokens of a text, or all of it. What follows a token can change it, but not from afar: so no more is read
 * than gives SLACK tokens beyond those that are wanted. */
static int encode(const struct tokenizer *t, const char *text, size_t len, int64_t most, struct token_list *ids,
                  struct why *why) {
    enum { SLACK = 256, BYTES_EACH = 8 };
    size_t some = most && (uint64_t)(most + SLACK) < len / BYTES_EACH ? (size_t)(most + SLACK) * BYTES_EACH : len;
    for (;; some = some < len / 2 ? 2 * some : len) {
        ids->len = 0;
        int rc = tokenizer_encode(t, text, some, false, false, MOST_TOKENS, ids, why);
        if (rc < 0 || some == len || ids->len >= most + SLACK) return rc;
    }
}

int windows_read(struct windows *w, const char *verb, const char *dir, const char *file, int64_t max_tokens, struct why *why) {
    struct tokenizer *t;
    size_t len = 0;
    char *text = cli_read_file(verb, file, &len);
    if (!text) return fail(why, ERR_IO, "there is no text");
    int rc = tokenizer_open(dir, &t, why);
    if (rc >= 0) {
        rc = encode(t, text, len, max_tokens, &w->ids, why);
        w->begin = begins_with(t);
        tokenizer_close(t);
    }
    free(text);
    if (rc < 0) return rc;
    if (max_tokens && w->ids.len > max_tokens) w->ids.len = (int)max_tokens;
    return w->ids.len < 2 ? fail(why, ERR_INVALID, "%s is %d tokens: nothing to predict", file, w->ids.len) : 0;
}

void windows_clear(struct windows *w) { token_list_clear(&w->ids); }

int cli_cores(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}
