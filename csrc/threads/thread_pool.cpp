#include "threads/thread_pool.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace tilepress {

namespace {

constexpr int kMaxWorkers = 255;

void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Waits for what others write: it asks for some microseconds, the time between two calls of a decoder's layer, then
// sleeps, so that a core is left to whoever needs it.
constexpr int kSpins = 2000;

// A worker that is so late, and later than the caller's own share took, has lost its core to another process. It costs
// milliseconds each time, as much as a hundred calls. So callers then do without workers for a while, for twice as long
// each time that this happens again soon.
using Clock = std::chrono::steady_clock;
constexpr Clock::duration kLate = std::chrono::microseconds(500);
constexpr Clock::duration kLeastAlone = std::chrono::milliseconds(20), kMostAlone = std::chrono::seconds(1);

template <typename Ready>
bool spin(Ready&& ready) {
    for (int i = 0; i < kSpins; ++i) {
        if (ready()) return true;
        pause();
    }
    return ready();
}

class Pool {
  public:
    void run(int threads, Body body, void* context) {
        std::unique_lock caller(callers_, std::try_to_lock);
        const auto began = Clock::now();
        if (!caller.owns_lock() || began < alone_until_ || !grow(threads - 1)) return body(context, 0);
        body_ = body;
        context_ = context;
        seats_ = threads - 1;
        taken_.store(0, std::memory_order_relaxed);
        open_.store(true);
        calls_.fetch_add(1);
        if (asleep_.load() > 0) {
            const std::lock_guard lock(mutex_);
            wake_.notify_all();
        }
        body(context, 0);
        open_.store(false);  // whoever comes late finds the call over
        const auto left = [this] { return inside_.load() == 0; };
        if (spin(left)) return;
        const auto done = Clock::now();
        std::unique_lock lock(mutex_);
        waiting_.store(true);
        idle_.wait(lock, left);
        waiting_.store(false);
        const auto end = Clock::now();
        if (end - done < std::max<Clock::duration>(kLate, 2 * (done - began))) return;
        alone_for_ = end - alone_until_ > 2 * alone_for_ ? kLeastAlone : std::min(2 * alone_for_, kMostAlone);
        alone_until_ = end + alone_for_;
    }

  private:
    // Workers that cannot be had are done without; without any the caller works alone.
    bool grow(int workers) {
        workers = workers < kMaxWorkers ? workers : kMaxWorkers;
        try {
            for (; workers_ < workers; ++workers_) std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {
        }
        return workers_ > 0;
    }

    void serve() {
        uint64_t served = 0;
        for (;;) {
            const auto called = [&] { return calls_.load() != served; };
            if (!spin(called)) {
                std::unique_lock lock(mutex_);
                asleep_.fetch_add(1);
                wake_.wait(lock, called);
                asleep_.fetch_sub(1);
            }
            served = calls_.load();
            // The caller closes the call and then looks for who is inside; a worker enters and then looks whether the
            // call is open. In one order of all these operations one of the two sees the other.
            inside_.fetch_add(1);
            if (open_.load()) {
                const int thread = 1 + taken_.fetch_add(1, std::memory_order_relaxed);
                if (thread <= seats_) body_(context_, thread);
            }
            if (inside_.fetch_sub(1) == 1 && waiting_.load()) {
                const std::lock_guard lock(mutex_);
                idle_.notify_one();
            }
        }
    }

    std::mutex callers_;  // held through a call, and guards what is up to `body_`
    int workers_ = 0;
    Clock::time_point alone_until_{};
    Clock::duration alone_for_ = kLeastAlone;

    // Written by the caller while the call is not open and nobody is inside.
    Body body_ = nullptr;
    void* context_ = nullptr;
    int seats_ = 0;
    std::atomic<int> taken_{0};

    alignas(64) std::atomic<uint64_t> calls_{0};
    std::atomic<bool> open_{false};
    std::atomic<int> asleep_{0};
    alignas(64) std::atomic<int> inside_{0};
    std::atomic<bool> waiting_{false};

    std::mutex mutex_;  // of those who sleep
    std::condition_variable wake_, idle_;
};

// Never destroyed: its threads may outlive static destructors. A forked child has none of its parent's threads and may
// have inherited locks that nobody will release, so it starts with a new one.
std::atomic<Pool*> pool{nullptr};

Pool& shared_pool() {
    Pool* current = pool.load(std::memory_order_acquire);
    if (current == nullptr) {
        Pool* const made = new Pool;
        if (pool.compare_exchange_strong(current, made, std::memory_order_acq_rel)) {
            current = made;
        } else {
            delete made;
        }
    }
    return *current;
}

#if defined(__unix__) || defined(__APPLE__)
const int registered = pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr, std::memory_order_release); });
#endif

}  // namespace

void run_on_pool(int threads, Body body, void* context) { shared_pool().run(threads, body, context); }

}  // namespace tilepress
