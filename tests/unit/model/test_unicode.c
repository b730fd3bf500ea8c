/* test_unicode.c - ill-formed sequences by maximal parts, streams cut anywhere, and normal forms by the reference's
 * editions. */
#include <stdio.h>
#include <string.h>

#include "model/text/unicode.h"
#include "model/text/utf8.h"

#include "tests/unit/run.h"


#define R "\xef\xbf\xbd"

static const struct {
    const char *in, *out;
} lossy[] = {
    {"", ""},
    {"plain", "plain"},
    {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
    {"\x80", R},
    {"\xff\xfe", R R},
    {"\xc3", R},
    {"\xc3(", R "("},
    {"\xe2\x82", R},
    {"\xe2\x82x", R "x"},
    {"\xf0\x9f\x98", R},
    {"\xf0\x9f\x98\xc3\xa9", R "\xc3\xa9"},
    {"\xf0\x9f\x98\xf0\x9f\x98\x80", R "\xf0\x9f\x98\x80"},
    {"\xc0\xaf", R R},
    {"\xe0\x80\xaf", R R R},
    {"\xed\xa0\x80", R R R},
    {"\xf4\x90\x80\x80", R R R R},
    {"\xf0\x80\x80\x80", R R R R},
    {"\xe2\xe2\xe2\x82\xac", R R "\xe2\x82\xac"},
    {"a\xf1\x80\x80\xe1\x80\xc2"
     "b\x80"
     "c\x80\xbf"
     "d",
     "a" R R R "b" R "c" R R "d"},
};

START_TEST(mends_by_maximal_parts) {
    struct text_buf out = {0};
    ck_assert_int_eq(utf8_append_lossy(&out, lossy[_i].in, strlen(lossy[_i].in)), 0);
    ck_assert_str_eq(out.data ? out.data : "", lossy[_i].out);
    text_buf_clear(&out);
}
END_TEST

/* Every way to cut the text in three: the pieces are whole characters and join to the same text. */
START_TEST(streams_do_not_depend_on_cuts) {
    size_t len = strlen(lossy[_i].in);
    for (size_t a = 0; a <= len; a++) {
        for (size_t b = a; b <= len; b++) {
            const size_t cut[] = {0, a, b, len};
            struct utf8_stream u = {.n = 0};
            struct text_buf all = {0}, piece = {0};
            for (int k = 0; k < 4; k++) {
                piece.len = 0;
                int rc = k < 3 ? utf8_stream_push(&u, lossy[_i].in + cut[k], cut[k + 1] - cut[k], &piece)
                               : utf8_stream_flush(&u, &piece);
                ck_assert_int_eq(rc, 0);
                ck_assert_uint_eq(utf8_valid_prefix(piece.data, piece.len), piece.len);
                ck_assert_int_eq(text_buf_append(&all, piece.data, piece.len), 0);
            }
            ck_assert_str_eq(all.data, lossy[_i].out);
            text_buf_clear(&all);
            text_buf_clear(&piece);
        }
    }
}
END_TEST

START_TEST(every_code_point_round_trips) {
    uint32_t wrong = UINT32_MAX; /* one check at the end: each is a message to the parent process */
    for (uint32_t cp = 0; cp < 0x110000 && wrong == UINT32_MAX; cp++) {
        char b[4];
        uint32_t got = 0;
        int n = utf8_write(cp, b);
        bool surrogate = cp >= 0xd800 && cp < 0xe000;
        bool good = surrogate ? utf8_read(b, (size_t)n, &got) == -1 : utf8_read(b, (size_t)n, &got) == n && got == cp;
        if (!surrogate) good = good && utf8_next(b, &got) == n && got == cp && utf8_back(b, (size_t)n) == 0;
        for (int k = 1; !surrogate && k < n; k++) good = good && utf8_read(b, (size_t)k, &got) == 0;
        if (!good) wrong = cp;
    }
    ck_assert_msg(wrong == UINT32_MAX, "U+%04X", (unsigned)wrong);
}
END_TEST

static const struct {
    enum unicode_form form;
    const char *in, *out;
} forms[] = {
    {UNICODE_NFC, "e\u0301", "\u00e9"},
    {UNICODE_NFD, "\u00e9", "e\u0301"},
    {UNICODE_NFC, "a\u0315\u0300\u05ae\u0300", "\u00e0\u05ae\u0300\u0315"}, /* marks sorted, the first composed */
    {UNICODE_NFKC, "\ufb01 \u2460", "fi 1"},
    {UNICODE_NFKD, "\u1e9b\u0323", "s\u0323\u0307"},
    {UNICODE_NFC, "\u1112\u1161\u11ab", "\ud55c"},
    {UNICODE_NFC, "\uac00\u11a7x", "\uac00\u11a7x"}, /* no trailing letter, and not lost */
    {UNICODE_NFC, "a\u1abf\u0323", "a\u1abf\u0323"}, /* a mark the old edition does not know parts them */
    {UNICODE_NFKC, "\u32ff", "\u32ff"},
    {UNICODE_NFC, "<\u0338 plain \u00c5\u212b", "\u226e plain \u00c5\u00c5"},
};

START_TEST(normal_forms) {
    struct text_buf out = {0};
    ck_assert_int_eq(unicode_normalize(forms[_i].form, forms[_i].in, strlen(forms[_i].in), &out), 0);
    ck_assert_str_eq(out.data, forms[_i].out);
    text_buf_clear(&out);
}
END_TEST

/* A million marks in falling order: utf8proc alone would exchange them for hours. */
START_TEST(sorting_marks_is_not_quadratic) {
    enum { N = 500000 };
    struct text_buf in = {0}, out = {0};
    text_buf_append(&in, "a", 1);
    for (int i = 0; i < N; i++) text_buf_append(&in, "\u0301", 2);
    for (int i = 0; i < N; i++) text_buf_append(&in, "\u0323", 2);
    ck_assert_int_eq(unicode_normalize(UNICODE_NFD, in.data, in.len, &out), 0);
    ck_assert_uint_eq(out.len, in.len);
    ck_assert(!memcmp(out.data + 1, "\u0323", 2) && !memcmp(out.data + out.len - 2, "\u0301", 2));
    text_buf_clear(&in);
    text_buf_clear(&out);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("unicode");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, mends_by_maximal_parts, 0, sizeof lossy / sizeof *lossy);
    tcase_add_loop_test(t, streams_do_not_depend_on_cuts, 0, sizeof lossy / sizeof *lossy);
    tcase_add_test(t, every_code_point_round_trips);
    tcase_add_loop_test(t, normal_forms, 0, sizeof forms / sizeof *forms);
    tcase_add_test(t, sorting_marks_is_not_quadratic);
    suite_add_tcase(suite, t);
    return run_suite(suite);
}
