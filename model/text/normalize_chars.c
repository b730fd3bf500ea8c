/* normalize_chars.c - normalisers that look at one character at a time, by the sets that the reference implementation has. */
#include "model/text/normal_stage.h"

struct span {
    uint32_t first, last;
};

static bool within(const struct span *t, size_t n, uint32_t cp) {
    size_t i = 0;
    while (i < n && cp > t[i].last) i++;
    return i < n && cp >= t[i].first;
}
#define WITHIN(table, cp) within(table, sizeof table / sizeof table[0], cp)

/* BertNormalizer's control characters, NUL and U+FFFD: Cc, Cf, Co of an old edition. */
static const struct span controls[] = {
    {0x0, 0x8},         {0xb, 0xc},         {0xe, 0x1f},        {0x7f, 0x9f},       {0xad, 0xad},
    {0x600, 0x605},     {0x61c, 0x61c},     {0x6dd, 0x6dd},     {0x70f, 0x70f},     {0x180e, 0x180e},
    {0x200b, 0x200f},   {0x202a, 0x202e},   {0x2060, 0x2064},   {0x2066, 0x206f},   {0xe000, 0xf8ff},
    {0xfeff, 0xfeff},   {0xfff9, 0xfffb},   {0xfffd, 0xfffd},   {0x110bd, 0x110bd}, {0x1bca0, 0x1bca3},
    {0x1d173, 0x1d17a}, {0xe0001, 0xe0001}, {0xe0020, 0xe007f}, {0xf0000, 0xffffd}, {0x100000, 0x10fffd},
};
static const struct span ideographs[] = {
    {0x3400, 0x4dbf},   {0x4e00, 0x9fff},   {0xf900, 0xfaff},   {0x20000, 0x2a6df},
    {0x2a700, 0x2b81f}, {0x2b920, 0x2ceaf}, {0x2f800, 0x2fa1f},
};
static const struct span nmt_controls[] = {{0x1, 0x8}, {0xb, 0xb}, {0xe, 0x1f}, {0x7f, 0x7f}, {0x8f, 0x8f}, {0x9f, 0x9f}};
static const struct span nmt_blanks[] = {
    {0x9, 0xa},       {0xc, 0xd},       {0x1680, 0x1680}, {0x200b, 0x200f},
    {0x2028, 0x2029}, {0x2581, 0x2581}, {0xfeff, 0xfeff}, {0xfffd, 0xfffd},
};

static int one(uint32_t cp, uint32_t *form) {
    form[0] = cp;
    return 1;
}

int normal_character(enum normal_kind kind, uint32_t cp, uint32_t form[NORMAL_MAX_FORM]) {
    switch (kind) {
    case NORMAL_LOWERCASE: return unicode_lower(cp, form);
    case NORMAL_STRIP_ACCENTS: return unicode_is_mark(cp) ? 0 : one(cp, form);
    case NORMAL_STRIP_NONSPACING: return unicode_is_nonspacing(cp) ? 0 : one(cp, form);
    case NORMAL_CLEAN: return WITHIN(controls, cp) ? 0 : one(unicode_is_space(cp) ? ' ' : cp, form);
    case NORMAL_NMT: return WITHIN(nmt_controls, cp) ? 0 : one(WITHIN(nmt_blanks, cp) ? ' ' : cp, form);
    case NORMAL_SPACE_IDEOGRAPHS:
        if (!WITHIN(ideographs, cp)) return one(cp, form);
        form[0] = form[2] = ' ';
        form[1] = cp;
        return 3;
    default: return one(cp, form);
    }
}
