/* hello.c - asks a running cluster to go on with a sentence and prints the answer as it is made.
 *
 * Build it against an installed Cadre with: cc hello.c $(pkg-config --cflags --libs cadre) */
#include <cadre.h>
#include <stdio.h>

static int run(struct cadre_client *client, const char *prompt) {
    struct cadre_request request = {.prompt = prompt, .max_tokens = 48, .has_max_tokens = 1};
    struct cadre_stream *stream;
    struct cadre_event event = {.kind = CADRE_STARTED};
    int code = cadre_generate(client, &request, &stream);
    if (code) return code;
    do {
        code = cadre_next(stream, -1, &event);
        if (code > 0) break;
        if (code == CADRE_OK && event.text_len) fwrite(event.text, 1, event.text_len, stdout);
        fflush(stdout);
    } while (event.kind != CADRE_END);
    if (code == CADRE_OK) code = event.status;
    cadre_stream_close(stream);
    return code;
}

int main(int argc, char **argv) {
    const char *endpoint = argc > 2 ? argv[2] : CADRE_DEFAULT_ENDPOINT;
    struct cadre_client *client;
    int code = cadre_open(endpoint, NULL, &client);
    if (!code) code = run(client, argc > 1 ? argv[1] : "The sea is");
    putchar('\n');
    if (code) fprintf(stderr, "hello: %s: %s\n", cadre_code_name(code), cadre_error(client));
    cadre_close(client);
    return code != CADRE_OK;
}
