/* test_pattern.c - Oniguruma's dialect on PCRE2: what matches, how matches follow each other, and what is refused. The expected
 * matches were checked with the reference implementation. */
#include <stdio.h>
#include <string.h>

#include "model/text/pattern.h"

#include "tests/unit/run.h"


static const struct {
    const char *pattern, *text, *matches; /* matches joined by '|' */
} cases[] = {
    {"\\p{N}{1,3}+", "1234567", "1234567"}, /* repeats, is not possessive */
    {"\\p{N}{1,3}", "1234567", "123|456|7"},
    {"a{,2}b", "aaab", "aab"},    /* {,n} is {0,n} */
    {"x{2", "x{2x{2", "x{2|x{2"}, /* not an interval */
    {"\\h+", "xyzBEEFq", "BEEF"}, /* hex digits */
    {"\\v", "a\vb\n", "\v"},      /* one character */
    {"^b", "a\nb", "b"},          /* lines without asking */
    {"a$", "a\na", "a|a"},
    {"a.b", "a\nb a-b", "a-b"},
    {"(?m:a.b)", "a\nb", "a\nb"},     /* m: the dot matches newlines */
    {"\\s+", "a\xe1\xa0\x8e b", " "}, /* U+180E is no space */
    {"[^\\S\\n]+", "a \t\n b", " \t| "},
    {"[a-z&&[^aeiou]]+", "hello world", "h|ll|w|rld"},
    {"[[a-c][x-z]]+", "abcmxyz", "abc|xyz"},
    {"[^a&&b]", "ab", "a|b"},
    {"[\\p{L}&&[^\\p{Han}]]+",
     "ab\xe6\xbc\xa2"
     "cd",
     "ab|cd"},
    {"\\p{Han}+", "\xe3\x80\x85\xe3\x80\x81", "\xe3\x80\x85"}, /* the script, not its extensions: U+3001 is out */
    {"\\p{^L}+", "ab12", "12"},
    {"\\P{L}+", "ab12", "12"},
    {"[\\P{L}a]+", "ab12", "a|12"},
    {"[[:punct:]]+", "a+b,c", "+|,"},
    {"\\p{Punct}+", "a+b,c", ","},                   /* as a property it has no symbols */
    {"[[:alpha:]]+", "a\xcd\xa3 1b", "a\xcd\xa3|b"}, /* U+0363 counts since Unicode 16 */
    {"[[:upper:]][[:lower:]]+\\p{Emoji}", "aAb1", "Ab1"},
    {"\\p{Katakana}|\\p{Yi}|\\p{Devanagari}+", "\xe3\x82\xab\xe3\x81\x8b\xe0\xa4\x95\xe0\xa4\xbf",
     "\xe3\x82\xab|\xe0\xa4\x95\xe0\xa4\xbf"},
    {"[-a]+", "b-a-", "-a-"},
    {"[a\\]\\-]+", "a]-b", "a]-"},
    {"[\\d_-]+", "1_-x", "1_-"},
    {"(?i:'s|'t)|.", "'S't", "'S|'t"},
    {"(?i)k", "K\xe2\x84\xaa", "K|\xe2\x84\xaa"}, /* the Kelvin sign */
    {"(?<=a)b|(?<!a)c", "abcac", "b|c"},
    {"(?>a+)b|a", "aaab", "aaab"},
    {"a*+ab|a", "aab", "a|a"},
    {"(?<name>ab)(?#note)c", "abc", "abc"},
    {"\\bfoo\\b", "foo afoo", "foo"},
    {"\\u0041\\x42\\x{43}\\t", "ABC\t", "ABC\t"},
    {"\\w+", "a\xc2\xb2_", "a\xc2\xb2_"},                /* U+00B2 outside of a class ... */
    {"[\\w]+", "a\xc2\xb2_", "a|_"},                     /* ... but not inside */
    {"a*", "baac", "|aa|"},                              /* an empty match behind a match does not count */
    {"\\p{L}+", "\xf0\xb1\x8d\x90", "\xf0\xb1\x8d\x90"}, /* U+31350, newer than PCRE2 10.42 */
    {"\\p{Lu}\\p{Ll}|\\p{Letter}", "Aab", "Aa|b"},
    {"a|", "ba", "|a"},
};

START_TEST(matches_as_the_reference) {
    struct pattern *p;
    struct why why;
    const char *text = cases[_i].text;
    int rc = pattern_open(cases[_i].pattern, strlen(cases[_i].pattern), &p, &why);
    ck_assert_msg(rc == 0, "%s", rc ? why.text : "");
    struct pattern_scratch scratch = {0};
    struct pattern_scan scan = {.pattern = p, .scratch = &scratch, .text = text, .len = strlen(text)};
    char got[200] = "";
    size_t start, end, n = 0;
    for (bool first = true; pattern_next(&scan, &start, &end) == 1; first = false)
        n += (size_t)snprintf(got + n, sizeof got - n, "%s%.*s", first ? "" : "|", (int)(end - start), text + start);
    ck_assert_msg(!strcmp(got, cases[_i].matches), "%s on '%s': '%s', wanted '%s'", cases[_i].pattern, text, got,
                  cases[_i].matches);
    pattern_scratch_clear(&scratch);
    pattern_close(p);
}
END_TEST

static const struct {
    const char *pattern, *what; /* part of the message */
} refused[] = {
    {"(a)\\1", "an unknown escape at offset 3"},
    {"\\G", "an unknown escape at offset 0"},
    {"a\\Kb", "an unknown escape at offset 1"},
    {"\\X", "an unknown escape"},
    {"(?x)a", "an unknown kind of group at offset 0"},
    {"(?~a)", "an unknown kind of group"},
    {"(?(1)a)", "an unknown kind of group"},
    {"a(?i)b", "an option in mid-branch at offset 1"},
    {"\\p{Dash}", "an unknown character property at offset 0"},
    {"\\pL", "\\p without {..}"},
    {"[[:graph:]]", "an unknown character property"},
    {"(?i)\\p{Upper}", "a cased property"},
    {"(?i)\\p{Lu}", "a cased property"},
    {"(?i:ss)", "fold together"},
    {"(?i:\xc3\xa9)", "beyond ASCII"},
    {"a**", "a repeat of a repeat at offset 2"},
    {"*a", "a repeat of nothing at offset 0"},
    {"(?=a)*", "a repeat of nothing"},
    {"a{3,2}", "a repeat out of range"},
    {"a{99999}", "a repeat out of range"},
    {"a{2}?", "a lazy fixed repeat"},
    {"[a", "an unfinished class"},
    {"[]", "an empty class"},
    {"[a&&]", "an empty class"},
    {"[&&a]", "an empty side of &&"},
    {"[b-a]", "an empty range"},
    {"[a-\\d]", "a range that ends in a set"},
    {"(a", "an unclosed group at offset 0"},
    {"a)", "an unmatched ) at offset 1"},
    {"(?<=a+)b", "pattern '(?<=a+)b'"},
    {"\\x{110000}", "hexadecimal"},
    {"\\xff", "hexadecimal"},
    {"\\", "a lone backslash"},
    {"\xff", "not UTF-8"},
};

START_TEST(unknown_constructs_are_refused) {
    struct pattern *p = NULL;
    struct why why = {""};
    ck_assert_int_lt(pattern_open(refused[_i].pattern, strlen(refused[_i].pattern), &p, &why), 0);
    ck_assert_msg(strstr(why.text, refused[_i].what) != NULL, "%s: %s", refused[_i].pattern, why.text);
}
END_TEST

START_TEST(nesting_is_bounded) {
    char deep[4000];
    struct pattern *p = NULL;
    struct why why;
    memset(deep, '(', 2000);
    memset(deep + 2000, ')', 2000);
    ck_assert_int_eq(pattern_open(deep, sizeof deep, &p, &why), ERR_UNSUPPORTED);
    memset(deep, '[', 2000);
    memset(deep + 2000, ']', 2000);
    ck_assert_int_eq(pattern_open(deep, sizeof deep, &p, &why), ERR_UNSUPPORTED);
}
END_TEST

/* A pattern that backtracks without end meets PCRE2's match limit. */
START_TEST(runaway_patterns_stop) {
    static const char source[] = "(?:a|a)*(?:a|a)*(?:a|a)*c";
    char text[4000];
    struct pattern *p;
    struct why why;
    size_t start, end;
    memset(text, 'a', sizeof text);
    memcpy(text + sizeof text - 2, "dc", 2);
    ck_assert_int_eq(pattern_open(source, sizeof source - 1, &p, &why), 0);
    struct pattern_scratch scratch = {0};
    struct pattern_scan scan = {.pattern = p, .scratch = &scratch, .text = text, .len = sizeof text};
    ck_assert_int_eq(pattern_next(&scan, &start, &end), ERR_TOO_LARGE);
    pattern_scratch_clear(&scratch);
    pattern_close(p);
}
END_TEST

START_TEST(literals_match_themselves) {
    static const char text[] = ".*[x]\\ \0|\xc3\xa9";
    struct pattern *p;
    struct why why;
    size_t start, end;
    ck_assert_int_eq(pattern_open_literal(text, sizeof text - 1, &p, &why), 0);
    struct pattern_scratch scratch = {0};
    struct pattern_scan scan = {.pattern = p, .scratch = &scratch, .text = text, .len = sizeof text - 1};
    ck_assert_int_eq(pattern_next(&scan, &start, &end), 1);
    ck_assert(start == 0 && end == sizeof text - 1);
    pattern_scratch_clear(&scratch);
    pattern_close(p);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("pattern");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, matches_as_the_reference, 0, sizeof cases / sizeof *cases);
    tcase_add_loop_test(t, unknown_constructs_are_refused, 0, sizeof refused / sizeof *refused);
    tcase_add_test(t, nesting_is_bounded);
    tcase_add_test(t, runaway_patterns_stop);
    tcase_add_test(t, literals_match_themselves);
    suite_add_tcase(suite, t);
    return run_suite(suite);
}
