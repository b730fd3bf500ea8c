/* unicode.c - utf8proc's properties, corrected by tables to the editions that the reference implementation uses.
 *
 * The tables were found by comparing every code point with the reference. They only name characters: a newer utf8proc or PCRE2
 * that already knows them does no harm. */
#include "model/text/unicode.h"

#include <utf8proc.h>

#include "model/text/utf8.h"

const struct unicode_range unicode_newer[] = {
    {0x897, 0x897, "Mn", 'A'},     {0xcf3, 0xcf3, "Mc"},          {0xece, 0xece, "Mn", 'O'},     {0x1b4e, 0x1b4f, "Po"},
    {0x1b7f, 0x1b7f, "Po"},        {0x1c89, 0x1c89, "Lu", 'C'},   {0x1c8a, 0x1c8a, "Ll", 'C'},   {0x2427, 0x2429, "So"},
    {0x2ffc, 0x2fff, "So"},        {0x31e4, 0x31e5, "So"},        {0x31ef, 0x31ef, "So"},        {0xa7cb, 0xa7cc, "Lu", 'L'},
    {0xa7cd, 0xa7cd, "Ll", 'L'},   {0xa7da, 0xa7da, "Lu", 'L'},   {0xa7db, 0xa7db, "Ll", 'L'},   {0xa7dc, 0xa7dc, "Lu", 'L'},
    {0x105c0, 0x105f3, "Lo"},      {0x10d40, 0x10d49, "Nd"},      {0x10d4a, 0x10d4d, "Lo"},      {0x10d4e, 0x10d4e, "Lm"},
    {0x10d4f, 0x10d4f, "Lo"},      {0x10d50, 0x10d65, "Lu"},      {0x10d69, 0x10d6d, "Mn"},      {0x10d6e, 0x10d6e, "Pd"},
    {0x10d6f, 0x10d6f, "Lm"},      {0x10d70, 0x10d85, "Ll"},      {0x10d8e, 0x10d8f, "Sm"},      {0x10ec2, 0x10ec4, "Lo", 'A'},
    {0x10efc, 0x10eff, "Mn", 'A'}, {0x1123f, 0x11240, "Lo"},      {0x11241, 0x11241, "Mn"},      {0x11380, 0x11389, "Lo"},
    {0x1138b, 0x1138b, "Lo"},      {0x1138e, 0x1138e, "Lo"},      {0x11390, 0x113b5, "Lo"},      {0x113b7, 0x113b7, "Lo"},
    {0x113b8, 0x113ba, "Mc"},      {0x113bb, 0x113c0, "Mn"},      {0x113c2, 0x113c2, "Mc"},      {0x113c5, 0x113c5, "Mc"},
    {0x113c7, 0x113ca, "Mc"},      {0x113cc, 0x113cd, "Mc"},      {0x113ce, 0x113ce, "Mn"},      {0x113cf, 0x113cf, "Mc"},
    {0x113d0, 0x113d0, "Mn"},      {0x113d1, 0x113d1, "Lo"},      {0x113d2, 0x113d2, "Mn"},      {0x113d3, 0x113d3, "Lo"},
    {0x113d4, 0x113d5, "Po"},      {0x113d7, 0x113d8, "Po"},      {0x113e1, 0x113e2, "Mn"},      {0x116d0, 0x116e3, "Nd"},
    {0x1171e, 0x1171e, "Mc"},      {0x11b00, 0x11b09, "Po"},      {0x11bc0, 0x11be0, "Lo"},      {0x11be1, 0x11be1, "Po"},
    {0x11bf0, 0x11bf9, "Nd"},      {0x11f00, 0x11f01, "Mn"},      {0x11f02, 0x11f02, "Lo"},      {0x11f03, 0x11f03, "Mc"},
    {0x11f04, 0x11f10, "Lo"},      {0x11f12, 0x11f33, "Lo"},      {0x11f34, 0x11f35, "Mc"},      {0x11f36, 0x11f3a, "Mn"},
    {0x11f3e, 0x11f3f, "Mc"},      {0x11f40, 0x11f40, "Mn"},      {0x11f41, 0x11f41, "Mc"},      {0x11f42, 0x11f42, "Mn"},
    {0x11f43, 0x11f4f, "Po"},      {0x11f50, 0x11f59, "Nd"},      {0x11f5a, 0x11f5a, "Mn"},      {0x1342f, 0x1342f, "Lo"},
    {0x13439, 0x1343f, "Cf"},      {0x13440, 0x13440, "Mn"},      {0x13441, 0x13446, "Lo"},      {0x13447, 0x13455, "Mn"},
    {0x13460, 0x143fa, "Lo"},      {0x16100, 0x1611d, "Lo"},      {0x1611e, 0x16129, "Mn"},      {0x1612a, 0x1612c, "Mc"},
    {0x1612d, 0x1612f, "Mn"},      {0x16130, 0x16139, "Nd"},      {0x16d40, 0x16d42, "Lm"},      {0x16d43, 0x16d6a, "Lo"},
    {0x16d6b, 0x16d6c, "Lm"},      {0x16d6d, 0x16d6f, "Po"},      {0x16d70, 0x16d79, "Nd"},      {0x18cff, 0x18cff, "Lo"},
    {0x1b132, 0x1b132, "Lo", 'I'}, {0x1b155, 0x1b155, "Lo"},      {0x1cc00, 0x1ccef, "So"},      {0x1ccf0, 0x1ccf9, "Nd"},
    {0x1cd00, 0x1ceb3, "So"},      {0x1d2c0, 0x1d2d3, "No"},      {0x1df25, 0x1df2a, "Ll", 'L'}, {0x1e030, 0x1e06d, "Lm", 'C'},
    {0x1e08f, 0x1e08f, "Mn", 'C'}, {0x1e4d0, 0x1e4ea, "Lo"},      {0x1e4eb, 0x1e4eb, "Lm"},      {0x1e4ec, 0x1e4ef, "Mn"},
    {0x1e4f0, 0x1e4f9, "Nd"},      {0x1e5d0, 0x1e5ed, "Lo"},      {0x1e5ee, 0x1e5ef, "Mn"},      {0x1e5f0, 0x1e5f0, "Lo"},
    {0x1e5f1, 0x1e5fa, "Nd"},      {0x1e5ff, 0x1e5ff, "Po"},      {0x1f6dc, 0x1f6dc, "So"},      {0x1f774, 0x1f776, "So"},
    {0x1f77b, 0x1f77f, "So"},      {0x1f7d9, 0x1f7d9, "So"},      {0x1f8b2, 0x1f8bb, "So"},      {0x1f8c0, 0x1f8c1, "So"},
    {0x1fa75, 0x1fa77, "So"},      {0x1fa87, 0x1fa89, "So"},      {0x1fa8f, 0x1fa8f, "So"},      {0x1faad, 0x1faaf, "So"},
    {0x1fabb, 0x1fabf, "So"},      {0x1fac6, 0x1fac6, "So"},      {0x1face, 0x1facf, "So"},      {0x1fada, 0x1fadc, "So"},
    {0x1fadf, 0x1fadf, "So"},      {0x1fae8, 0x1fae9, "So"},      {0x1faf7, 0x1faf8, "So"},      {0x1fbcb, 0x1fbef, "So"},
    {0x2b739, 0x2b739, "Lo", 'H'}, {0x2ebf0, 0x2ee5d, "Lo", 'H'}, {0x31350, 0x323af, "Lo", 'H'},
};
const int unicode_newer_count = sizeof unicode_newer / sizeof unicode_newer[0];

struct span {
    uint32_t first, last;
};

/* Punctuation of utf8proc that the old edition does not have. */
static const struct span late_punct[] = {
    {0x61d, 0x61d},     {0x9fd, 0x9fd},     {0xa76, 0xa76},     {0xc77, 0xc77},     {0xc84, 0xc84},     {0x1b4e, 0x1b4f},
    {0x1b7d, 0x1b7f},   {0x2e43, 0x2e4f},   {0x2e52, 0x2e5d},   {0x10d6e, 0x10d6e}, {0x10ead, 0x10ead}, {0x10f55, 0x10f59},
    {0x10f86, 0x10f89}, {0x113d4, 0x113d5}, {0x113d7, 0x113d8}, {0x1144b, 0x1144f}, {0x1145a, 0x1145b}, {0x1145d, 0x1145d},
    {0x11660, 0x1166c}, {0x116b9, 0x116b9}, {0x1183b, 0x1183b}, {0x11944, 0x11946}, {0x119e2, 0x119e2}, {0x11a3f, 0x11a46},
    {0x11a9a, 0x11a9c}, {0x11a9e, 0x11aa2}, {0x11b00, 0x11b09}, {0x11be1, 0x11be1}, {0x11c41, 0x11c45}, {0x11c70, 0x11c71},
    {0x11ef7, 0x11ef8}, {0x11f43, 0x11f4f}, {0x11fff, 0x11fff}, {0x12ff1, 0x12ff2}, {0x16d6d, 0x16d6f}, {0x16e97, 0x16e9a},
    {0x16fe2, 0x16fe2}, {0x1e5ff, 0x1e5ff}, {0x1e95e, 0x1e95f},
};

/* Marks of utf8proc that the old normaliser does not have: it neither reorders nor composes nor strips them. */
static const struct span late_marks[] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0xafa, 0xaff},     {0xb55, 0xb55},
    {0xc04, 0xc04},     {0xc3c, 0xc3c},     {0xcf3, 0xcf3},     {0xd00, 0xd00},     {0xd3b, 0xd3c},     {0xd81, 0xd81},
    {0xeba, 0xeba},     {0xece, 0xece},     {0x1715, 0x1715},   {0x180f, 0x180f},   {0x1abf, 0x1ace},   {0x1cf7, 0x1cf7},
    {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},   {0xa8ff, 0xa8ff},   {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff},
    {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x11073, 0x11074}, {0x110c2, 0x110c2}, {0x11145, 0x11146},
    {0x111c9, 0x111c9}, {0x111ce, 0x111cf}, {0x11241, 0x11241}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x1182c, 0x1183a},
    {0x11930, 0x11935}, {0x11937, 0x11938}, {0x1193b, 0x1193e}, {0x11940, 0x11940}, {0x11942, 0x11943}, {0x119d1, 0x119d7},
    {0x119da, 0x119e0}, {0x119e4, 0x119e4}, {0x11a01, 0x11a0a}, {0x11a33, 0x11a39}, {0x11a3b, 0x11a3e}, {0x11a47, 0x11a47},
    {0x11a51, 0x11a5b}, {0x11a8a, 0x11a99}, {0x11d31, 0x11d36}, {0x11d3a, 0x11d3a}, {0x11d3c, 0x11d3d}, {0x11d3f, 0x11d45},
    {0x11d47, 0x11d47}, {0x11d8a, 0x11d8e}, {0x11d90, 0x11d91}, {0x11d93, 0x11d97}, {0x11ef3, 0x11ef6}, {0x11f00, 0x11f01},
    {0x11f03, 0x11f03}, {0x11f34, 0x11f3a}, {0x11f3e, 0x11f42}, {0x13440, 0x13440}, {0x13447, 0x13455}, {0x16f4f, 0x16f4f},
    {0x16f7f, 0x16f87}, {0x16fe4, 0x16fe4}, {0x16ff0, 0x16ff1}, {0x1cf00, 0x1cf2d}, {0x1cf30, 0x1cf46}, {0x1e08f, 0x1e08f},
    {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef},
};

/* Compatibility characters that the old normaliser leaves alone under NFKC and NFKD. */
static const struct span late_compat[] = {
    {0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},   {0xab69, 0xab69},   {0x10781, 0x10785}, {0x10787, 0x107b0},
    {0x107b2, 0x107ba}, {0x1e030, 0x1e06d}, {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9},
};

/* Lower case newer than utf8proc: the characters first..last map to themselves plus delta. */
static const struct {
    uint32_t first, last;
    int32_t delta;
} late_lower[] = {
    {0x1c89, 0x1c89, 1},      {0xa7cb, 0xa7cb, 0x264 - 0xa7cb},
    {0xa7cc, 0xa7cc, 1},      {0xa7ce, 0xa7ce, 1},
    {0xa7d2, 0xa7d2, 1},      {0xa7d4, 0xa7d4, 1},
    {0xa7da, 0xa7da, 1},      {0xa7dc, 0xa7dc, 0x19b - 0xa7dc},
    {0x10d50, 0x10d65, 0x20}, {0x16ea0, 0x16eb8, 0x1b},
};

static bool within(const struct span *t, size_t n, uint32_t cp) {
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (cp > t[mid].last) lo = mid + 1;
        else hi = mid;
    }
    return lo < n && cp >= t[lo].first;
}
#define WITHIN(table, cp) within(table, sizeof table / sizeof table[0], cp)

static const struct unicode_range *newer(uint32_t cp) {
    int lo = 0, hi = unicode_newer_count;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (cp > unicode_newer[mid].last) lo = mid + 1;
        else hi = mid;
    }
    return lo < unicode_newer_count && cp >= unicode_newer[lo].first ? &unicode_newer[lo] : NULL;
}

bool unicode_is_space(uint32_t cp) {
    if (cp < 0x80) return cp == ' ' || (cp >= 9 && cp <= 13);
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

bool unicode_is_numeric(uint32_t cp) {
    if (cp < 0x80) return cp >= '0' && cp <= '9';
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    if (c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO) return true;
    const struct unicode_range *r = newer(cp);
    return (r && r->category[0] == 'N') || (cp >= 0x11de0 && cp <= 0x11de9) || (cp >= 0x16ff4 && cp <= 0x16ff6);
}

bool unicode_is_punct(uint32_t cp) {
    if (cp < 0x80) return (cp > ' ' && cp < '0') || (cp > '9' && cp < 'A') || (cp > 'Z' && cp < 'a') || (cp > 'z' && cp < 0x7f);
    if (cp == 0x166d || cp == 0x111c9) return true;
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO && !WITHIN(late_punct, cp);
}

bool unicode_is_mark(uint32_t cp) {
    if (cp < 0x300) return false;
    if (cp == 0x1cf2 || cp == 0x1cf3) return true;
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_MN && c <= UTF8PROC_CATEGORY_ME && !WITHIN(late_marks, cp) && (cp == 0x1171e || !newer(cp));
}

/* Nonspacing marks of utf8proc that are other marks, or nothing yet, in the old edition. */
static const struct span late_nonspacing[] = {
    {0x8d4, 0x8e1},     {0x1734, 0x1734},   {0x1885, 0x1886},   {0x1dfb, 0x1dfb},   {0xa8c5, 0xa8c5},   {0xa9bd, 0xa9bd},
    {0x1123e, 0x1123e}, {0x11438, 0x1143f}, {0x11442, 0x11444}, {0x11446, 0x11446}, {0x11c30, 0x11c36}, {0x11c38, 0x11c3d},
    {0x11c3f, 0x11c3f}, {0x11c92, 0x11ca7}, {0x11caa, 0x11cb0}, {0x11cb2, 0x11cb3}, {0x11cb5, 0x11cb6}, {0x1e000, 0x1e006},
    {0x1e008, 0x1e018}, {0x1e01b, 0x1e021}, {0x1e023, 0x1e024}, {0x1e026, 0x1e02a}, {0x1e944, 0x1e94a},
};

bool unicode_is_nonspacing(uint32_t cp) {
    return unicode_is_mark(cp) && utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_MN &&
           !WITHIN(late_nonspacing, cp);
}

size_t unicode_grapheme(const char *s, size_t len) {
    uint32_t cp, next;
    utf8proc_int32_t state = 0;
    size_t at = (size_t)utf8_next(s, &cp);
    while (at < len) {
        size_t n = (size_t)utf8_next(s + at, &next);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)cp, (utf8proc_int32_t)next, &state)) break;
        at += n;
        cp = next;
    }
    return at;
}

bool unicode_is_alnum(uint32_t cp) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) || (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO);
}

int unicode_lower(uint32_t cp, uint32_t out[2]) {
    if (cp == 0x130) { /* the only unconditional mapping to two */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
    for (size_t i = 0; out[0] == cp && i < sizeof late_lower / sizeof late_lower[0]; i++)
        if (cp >= late_lower[i].first && cp <= late_lower[i].last) out[0] = cp + (uint32_t)late_lower[i].delta;
    return 1;
}

bool unicode_is_unnormalized(uint32_t cp) {
    return cp >= 0x7fd && (cp == 0x11a7 /* one before the trailing Hangul letters: utf8proc loses it when composing */ ||
                           WITHIN(late_marks, cp) || WITHIN(late_compat, cp) || newer(cp));
}
