/* reach.h - is somebody there? Asked by who waits for a coordinator that may be gone for good. */
#pragma once
#include <stdbool.h>

/* "tcp://HOST:PORT": its host lives, and nobody listens there. False for whatever else keeps us from it: that may pass. Takes a
 * second at most, beside looking up the name. */
bool reach_refused(const char *endpoint);
