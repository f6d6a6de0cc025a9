#include "threads/openmp.hpp"

#if defined(__unix__) || defined(__APPLE__)

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>

namespace tilepress {

namespace {

// The interface that GCC compiles to. LLVM's and Intel's runtimes have it too.
struct Runtime {
    void (*parallel)(void (*body)(void*), void* data, unsigned threads, unsigned flags);
    int (*thread_number)();
};

struct Team {
    const Runtime& runtime;
    Body body;
    void* context;
};

std::atomic<bool> forked{false};
const int registered = pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });

// Null until a runtime is loaded: torch may be imported later than this module.
const Runtime* find_runtime() {
    static std::atomic<const Runtime*> found{nullptr};
    if (const Runtime* runtime = found.load(std::memory_order_acquire)) return runtime;
    void* const parallel = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    void* const thread_number = dlsym(RTLD_DEFAULT, "omp_get_thread_num");
    if (parallel == nullptr || thread_number == nullptr) return nullptr;
    static const Runtime runtime{reinterpret_cast<void (*)(void (*)(void*), void*, unsigned, unsigned)>(parallel),
                                 reinterpret_cast<int (*)()>(thread_number)};
    found.store(&runtime, std::memory_order_release);
    return &runtime;
}

}  // namespace

bool run_on_openmp(int threads, Body body, void* context) {
    if (forked.load(std::memory_order_relaxed)) return false;
    const Runtime* const runtime = find_runtime();
    if (runtime == nullptr) return false;
    Team team{*runtime, body, context};
    runtime->parallel(
        [](void* data) {
            const Team& team = *static_cast<Team*>(data);
            team.body(team.context, team.runtime.thread_number());
        },
        &team, static_cast<unsigned>(threads), 0);
    return true;
}

}  // namespace tilepress

#else

namespace tilepress {

bool run_on_openmp(int, Body, void*) { return false; }

}  // namespace tilepress

#endif
