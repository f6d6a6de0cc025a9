// Threads of our own. They wait for the next call for some microseconds, then sleep.
#pragma once

namespace tilepress {

using Body = void (*)(void* context, int thread);

// Calls body(context, 0) on the calling thread and body(context, t) on others, for each t in [1, threads) that a thread
// can be had for in time, and returns when all that began have ended. A thread that has lost its core, or sleeps on,
// is not waited for: whoever has begun does its work too. While another thread's call is under way the caller works
// alone. A process that was forked makes new threads. Bodies must not throw.
void run_on_pool(int threads, Body body, void* context);

}  // namespace tilepress
