#include "threads/thread_pool.hpp"

#include <atomic>
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

class Pool {
  public:
    void run(int threads, Body body, void* context) {
        std::unique_lock caller(callers_, std::try_to_lock);
        if (!caller.owns_lock() || !grow(threads - 1)) return body(context, 0);
        {
            std::lock_guard lock(mutex_);
            body_ = body;
            context_ = context;
            seats_ = threads - 1;
            seated_ = 0;
            ++call_;
        }
        if (threads - 1 < workers_) {
            for (int worker = 0; worker + 1 < threads; ++worker) wake_.notify_one();
        } else {
            wake_.notify_all();
        }
        body(context, 0);
        std::unique_lock lock(mutex_);
        seats_ = 0;  // whoever wakes up late finds the call over
        idle_.wait(lock, [this] { return working_ == 0; });
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
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return seats_ > seated_ && call_ != served; });
            served = call_;
            const int thread = ++seated_;
            ++working_;
            const Body body = body_;
            void* const context = context_;
            lock.unlock();
            body(context, thread);
            lock.lock();
            if (--working_ == 0) idle_.notify_one();
        }
    }

    std::mutex callers_;  // held through a call
    int workers_ = 0;

    std::mutex mutex_;  // of all below
    std::condition_variable wake_, idle_;
    Body body_ = nullptr;
    void* context_ = nullptr;
    uint64_t call_ = 0;
    int seats_ = 0, seated_ = 0, working_ = 0;
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
