/* host.h - which host this process runs on, as far as sharing memory with another process goes. */
#pragma once

enum { HOST_ID_BYTES = 64 };

/* Writes a word, "name-16 hex digits", that two processes have in common exactly when they run under the same kernel, host
 * name, /dev/shm and PID namespace: then they can open each other's memory through /proc. Containers and namespaces that
 * keep one of these apart are hosts of their own. Where the kernel cannot be told from another's, the word is this
 * process's alone. */
void fabric_host_id(char out[HOST_ID_BYTES]);
