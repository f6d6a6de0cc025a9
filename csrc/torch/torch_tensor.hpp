// Tensors of the torch that is loaded, and how operators refuse those that do not fit.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "torch/torch_interface.hpp"

namespace tilepress {

extern TorchInterface torch;

class Tensor {
  public:
    explicit Tensor(TorchTensor* handle) : handle_(handle) {}
    Tensor(Tensor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Tensor& operator=(Tensor&& other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Tensor() {
        if (handle_ != nullptr) torch.delete_tensor(handle_);
    }

    TorchTensor* handle() const { return handle_; }
    TorchTensor* release() { return std::exchange(handle_, nullptr); }

    int32_t dtype() const { return get(torch.dtype, int32_t{}); }
    int64_t dim() const { return get(torch.dim, int64_t{}); }
    int64_t numel() const { return get(torch.numel, int64_t{}); }
    bool is_contiguous() const { return get(torch.is_contiguous, bool{}); }
    const int64_t* sizes() const { return get(torch.sizes, static_cast<int64_t*>(nullptr)); }
    const int64_t* strides() const { return get(torch.strides, static_cast<int64_t*>(nullptr)); }

    template <typename T = void>
    T* data() const {
        return static_cast<T*>(get(torch.data, static_cast<void*>(nullptr)));
    }

  private:
    template <typename Getter, typename T>
    T get(Getter getter, T value) const {
        check(getter(handle_, &value));
        return value;
    }

    TorchTensor* handle_;
};

// Uninitialized and contiguous, on the cpu.
Tensor empty(const std::vector<int64_t>& sizes, int32_t dtype);

// As torch prints it.
std::string type_name(int32_t dtype);

std::string list(const int64_t* values, int64_t count);

// The tensor. Throws std::invalid_argument where it is not contiguous or of another dtype or length.
const Tensor& require(const char* name, const Tensor& tensor, int32_t dtype, int64_t length);

}  // namespace tilepress
