/* log_ucx.h - what UCX has to say goes into our log, not to stdout. */
#pragma once

/* Once per process is enough, more often harmless; before the first context is made. */
void log_ucx_adopt(void);
