/* test_utf8.c - the first and last sequence of every kind that is UTF-8, and their neighbours that are not. */
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

#include "tests/unit/run.h"

START_TEST(borders) {
    static const char *const good[] = {"",
                                       "a",
                                       "\xc2\x80",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xef\xbf\xbf",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {"\x80",
                                      "\xbf",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xc2",
                                      "\xc2\x20",
                                      "\xe0\x9f\xbf",
                                      "\xe0\xa0",
                                      "\xed\xa0\x80",
                                      "\xef\xbf\xc0",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xff",
                                      "\xf0\x90\x80"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        ck_assert_uint_eq(utf8_valid_prefix(good[i], strlen(good[i])), strlen(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[16] = "ab";
        memcpy(text + 2, bad[i], strlen(bad[i]) + 1);
        ck_assert_uint_eq(utf8_valid_prefix(text, strlen(text)), 2);
    }
}
END_TEST

START_TEST(copies) {
    char buf[8];
    static const char *const cases[][2] = {{"plain", "plain"},           {"a\xffg", "a?g"},
                                           {"1234567", "1234567"},       {"12345678", "1234567"},
                                           {"123456\xc3\xa9", "123456"}, {"\xe2\x82", "??"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        utf8_copy(buf, sizeof buf, cases[i][0]);
        ck_assert_str_eq(buf, cases[i][1]);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("utf8");
    TCase *c = tcase_create("utf8");
    tcase_add_test(c, borders);
    tcase_add_test(c, copies);
    suite_add_tcase(s, c);
    return run_suite(s);
}
