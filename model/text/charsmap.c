/* charsmap.c - reading and walking the trie. */
#include "model/text/charsmap.h"

#include <stdlib.h>
#include <string.h>

#include "model/text/base64.h"
#include "model/text/utf8.h"

static const char *const what = "the precompiled normalisation map";

static uint32_t get_u32(const char *p) {
    const unsigned char *b = (const unsigned char *)p;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

int charsmap_open(struct charsmap *m, const char *bytes, size_t len, struct why *why) {
    *m = (struct charsmap){0};
    if (!len) return 0;
    uint32_t size = len < 4 ? 0 : get_u32(bytes);
    if (len < 4 || size % 4 || size > len - 4) return fail(why, ERR_CORRUPT, "%s is cut short or damaged", what);
    m->n_units = size / 4;
    m->text_len = len - 4 - size;
    m->unit = malloc((m->n_units + 1) * sizeof *m->unit);
    m->text = malloc(m->text_len + 1);
    if (!m->unit || !m->text) return fail(why, ERR_NOMEM, "out of memory reading %s", what);
    for (size_t i = 0; i < m->n_units; i++) m->unit[i] = get_u32(bytes + 4 + 4 * i);
    memcpy(m->text, bytes + 4 + size, m->text_len);
    m->text[m->text_len] = '\0';
    if (utf8_valid_prefix(m->text, m->text_len) != m->text_len) return fail(why, ERR_CORRUPT, "%s holds broken UTF-8", what);
    return 0;
}

int charsmap_open_base64(struct charsmap *m, const char *text, size_t len, struct why *why) {
    *m = (struct charsmap){0};
    char *bytes = malloc(len + 1);
    if (!bytes) return fail(why, ERR_NOMEM, "out of memory reading %s", what);
    int64_t n = base64_decode(text, len, bytes);
    int rc = n < 0 ? fail(why, ERR_CORRUPT, "%s is not base64", what) : charsmap_open(m, bytes, (size_t)n, why);
    free(bytes);
    return rc;
}

void charsmap_close(struct charsmap *m) {
    free(m->unit);
    free(m->text);
    *m = (struct charsmap){0};
}

static size_t offset_of(uint32_t unit) { return (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6); }

static bool inside_character(const char *s) { return ((unsigned char)*s & 0xc0) == 0x80; }

const char *charsmap_find(const struct charsmap *m, const char *s, size_t len, bool longest, size_t *taken) {
    const char *found = NULL;
    if (!m->n_units) return NULL;
    size_t at = offset_of(m->unit[0]);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];
        at ^= c;
        if (!c || at >= m->n_units) break; /* no source holds a NUL */
        uint32_t unit = m->unit[at];
        if ((unit & (1u << 31 | 0xff)) != c) break;
        at ^= offset_of(unit);
        if (!(unit >> 8 & 1) || (i + 1 < len && inside_character(s + i + 1))) continue;
        size_t value = at < m->n_units ? m->unit[at] & 0x7fffffff : m->text_len;
        if (value >= m->text_len || inside_character(m->text + value)) break;
        found = m->text + value;
        *taken = i + 1;
        if (!longest) break;
    }
    return found;
}
