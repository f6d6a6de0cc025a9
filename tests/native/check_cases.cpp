// check_cases FILE...: decodes, encodes and multiplies what each file holds, and compares with what it says must come
// out. cases.py writes the files. With no file, prints the instruction set in use and those that are available.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "codec/decode.hpp"
#include "codec/encode.hpp"
#include "codec/entropy_decode.hpp"
#include "codec/entropy_encode.hpp"
#include "kernels/embed.hpp"
#include "kernels/linear.hpp"
#include "simd/isa.hpp"
#include "tiles/tensor_view.hpp"

namespace {

// Reads arrays, each behind its length in bytes.
class Reader {
  public:
    explicit Reader(const char* path) : file_(path, std::ios::binary) {
        if (!file_) throw std::runtime_error("cannot be opened");
    }

    template <typename T>
    std::vector<T> array() {
        uint64_t bytes;
        read(&bytes, sizeof bytes);
        std::vector<T> values(bytes / sizeof(T));
        read(values.data(), bytes);
        return values;
    }

    template <typename T>
    T number() {
        return array<T>().at(0);
    }

    bool at_end() { return file_.peek() == std::ifstream::traits_type::eof(); }

  private:
    void read(void* to, uint64_t bytes) {
        file_.read(static_cast<char*>(to), static_cast<std::streamsize>(bytes));
        if (!file_) throw std::runtime_error("ends too early");
    }

    std::ifstream file_;
};

template <typename T>
void require_equal(const std::vector<T>& actual, const std::vector<T>& expected, const std::string& what) {
    if (actual.size() != expected.size()) {
        throw std::runtime_error(what + ": " + std::to_string(actual.size()) + " instead of " +
                                 std::to_string(expected.size()));
    }
    for (size_t i = 0; i < actual.size(); ++i) {
        if (actual[i] != expected[i]) {
            throw std::runtime_error(what + ": entry " + std::to_string(i) + " is " + std::to_string(actual[i]) +
                                     ", not " + std::to_string(expected[i]));
        }
    }
}

void check(Reader& file) {
    const auto info = file.array<int64_t>();
    const auto weight = file.array<uint8_t>(), index = file.array<uint8_t>();
    const auto matrix = file.array<int8_t>();
    const tilepress::TensorView tensor =
        tilepress::open_tensor(weight.data(), weight.size(), index.data(), index.size(), info.data(), info.size());
    const tilepress::Geometry& geometry = tensor.geometry;

    const auto plans = tilepress::plan_tiles(matrix.data(), geometry, 2);
    std::vector<uint8_t> new_weight(tilepress::weight_bytes(plans)), new_index(index.size());
    tilepress::write_tiles(matrix.data(), geometry, plans, 2, new_weight.data(), new_index.data());
    require_equal(new_weight, weight, "encoded weight");
    require_equal(new_index, index, "encoded index");

    std::vector<int8_t> decoded(matrix.size());
    tilepress::validate(tensor);
    tilepress::decode(tensor, 2, decoded.data());
    require_equal(decoded, matrix, "decoded matrix");

    const auto coded_weight = file.array<uint8_t>(), coded_index = file.array<uint8_t>();
    const auto coded_info = file.array<int64_t>();
    const tilepress::EntropyBytes coded = tilepress::encode_entropy(matrix.data(), geometry.n, geometry.k, 2);
    require_equal(coded.weight, coded_weight, "entropy-coded weight");
    require_equal(coded.index, coded_index, "entropy-coded index");
    const tilepress::EntropyTensor coded_tensor =
        tilepress::open_entropy(coded_weight.data(), coded_weight.size(), coded_index.data(), coded_index.size(),
                                coded_info.data(), coded_info.size());
    std::fill(decoded.begin(), decoded.end(), int8_t{0});
    tilepress::check_entropy(coded_tensor);
    tilepress::decode_entropy(coded_tensor, 2, decoded.data());
    require_equal(decoded, matrix, "decoded entropy-coded matrix");

    const auto deq_scale = file.array<float>();
    std::vector<int64_t> ids(deq_scale.size());
    std::iota(ids.rbegin(), ids.rend(), 0);
    std::vector<float> embedded(matrix.size()), expected;
    tilepress::embed(tensor, ids.data(), geometry.n, deq_scale.data(), embedded.data(), 2);
    for (const int64_t id : ids) {
        for (int64_t c = 0; c < geometry.k; ++c) {
            expected.push_back(static_cast<float>(matrix[id * geometry.k + c]) * deq_scale[id]);
        }
    }
    require_equal(embedded, expected, "embedded rows");

    const auto quant_bias = file.array<int32_t>(), weight_sums = file.array<int32_t>();
    const float input_scale = file.number<float>();
    const int32_t input_offset = file.number<int32_t>();
    for (int32_t calls = file.number<int32_t>(); calls > 0; --calls) {
        const auto type = static_cast<tilepress::FloatType>(file.number<int32_t>());
        const auto x = file.array<uint8_t>();
        const int64_t size = type == tilepress::FloatType::float32 ? 4 : 2;
        const auto clamped = file.array<uint8_t>(), with_own_scales = file.array<uint8_t>();
        std::vector<uint8_t> y(clamped.size());
        tilepress::LinearArguments arguments{
            .x = x.data(),
            .y = y.data(),
            .y_stride = geometry.n,
            .type = type,
            .tokens = static_cast<int64_t>(x.size()) / (size * geometry.k),
            .input_scale = input_scale,
            .input_offset = input_offset,
            .deq_scale = deq_scale.data(),
            .quant_bias = quant_bias.data(),
            .weight_sums = nullptr,
        };
        const std::string tokens = std::to_string(arguments.tokens) + " tokens";
        tilepress::linear(tensor, arguments, 2);
        require_equal(y, clamped, "bytes of y for " + tokens);
        arguments.weight_sums = weight_sums.data();
        tilepress::linear(tensor, arguments, 2);
        require_equal(y, with_own_scales, "bytes of y for " + tokens + " with their own scales");
    }
}

}  // namespace

int main(int count, char** arguments) {
    for (int i = 1; i < count; ++i) {
        int number = 0;
        try {
            for (Reader file(arguments[i]); !file.at_end(); ++number) check(file);
        } catch (const std::exception& error) {
            std::fprintf(stderr, "%s, case %d: %s\n", arguments[i], number, error.what());
            return 1;
        }
    }
    try {
        std::printf("%s of", tilepress::isa().name);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    for (const tilepress::Isa& isa : tilepress::isas()) {
        if (isa.available()) std::printf(" %s", isa.name);
    }
    std::printf("\n");
}
