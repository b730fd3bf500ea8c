/* chat_absent.c - stands in for model/chat_template.c in builds without it: no checkpoint has a chat template then. */
#include "model/chat_template.h"

int chat_template_open(const char *dir, struct chat_template **out, struct why *why) {
    (void)dir, (void)out, (void)why;
    return ERR_NOT_FOUND;
}

void chat_template_close(struct chat_template *t) { (void)t; }

int chat_template_render(const struct chat_template *t, const struct chat_message *messages, int n, bool add_generation_prompt,
                         int64_t now, struct text_buf *out, struct why *why) {
    (void)t, (void)messages, (void)n, (void)add_generation_prompt, (void)now, (void)out;
    return fail(why, ERR_UNSUPPORTED, "this build has no chat templates");
}
