// The decoder's step, as Python sees it.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "decoder/decoder.hpp"
#include "python/bindings.hpp"

namespace nb = nanobind;

namespace tilepress {

namespace {

template <typename T>
using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Matrix = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void require_length(const char* name, size_t length, int64_t expected) {
    if (static_cast<int64_t>(length) == expected) return;
    const std::string message =
        std::string(name) + " has " + std::to_string(length) + " entries; " + std::to_string(expected) + " are needed";
    throw nb::value_error(message.c_str());
}

Projection compressed(const Vector<int8_t>& weight, const Vector<int8_t>& index, const Vector<int64_t>& info,
                      float input_scale, int input_offset, const Vector<float>& deq_scale,
                      const Vector<int32_t>& quant_bias, const std::optional<Vector<int32_t>>& weight_sums) {
    const TensorView tiles =
        open_tensor(reinterpret_cast<const uint8_t*>(weight.data()), weight.size(),
                    reinterpret_cast<const uint8_t*>(index.data()), index.size(), info.data(), info.size());
    require_length("deq_scale", deq_scale.size(), tiles.geometry.n);
    require_length("quant_bias", quant_bias.size(), tiles.geometry.n);
    if (weight_sums) require_length("weight_sums", weight_sums->size(), tiles.geometry.n);
    LinearArguments scales{};
    scales.input_scale = input_scale;
    scales.input_offset = input_offset;
    scales.deq_scale = deq_scale.data();
    scales.quant_bias = quant_bias.data();
    scales.weight_sums = weight_sums ? weight_sums->data() : nullptr;
    return compressed_projection(tiles, scales);
}

template <typename T>
Projection of_floats(FloatType type, const Matrix<T>& weight, const std::optional<Vector<float>>& bias) {
    const int64_t n = static_cast<int64_t>(weight.shape(0)), k = static_cast<int64_t>(weight.shape(1));
    if (bias) require_length("bias", bias->size(), n);
    return float_projection(type, weight.data(), bias ? bias->data() : nullptr, n, k);
}

Projection of_16_bits(const Matrix<int16_t>& weight, bool bfloat, const std::optional<Vector<float>>& bias) {
    return of_floats(bfloat ? FloatType::bfloat16 : FloatType::float16, weight, bias);
}

Projection of_32_bits(const Matrix<float>& weight, const std::optional<Vector<float>>& bias) {
    return of_floats(FloatType::float32, weight, bias);
}

// A norm, and how many columns it is for.
struct SizedNorm {
    Norm norm;
    int64_t size;
};

SizedNorm make_norm(const Vector<float>& gain, const std::optional<Vector<float>>& bias, float epsilon) {
    if (bias) require_length("bias", bias->size(), static_cast<int64_t>(gain.size()));
    return {{gain.data(), bias ? bias->data() : nullptr, epsilon}, static_cast<int64_t>(gain.size())};
}

// The caches' addresses are here.
struct BoundSequence {
    DecoderSequence sequence;
    std::vector<Cache> caches;
};

// Addresses instead of arrays: converting those of 30 layers would take longer than multiplying a small layer.
BoundSequence make_sequence(int64_t tokens, int64_t past, int64_t asked, CacheType cache_type,
                            const std::vector<uintptr_t>& caches, int64_t room) {
    if (tokens < 1 || past < 0 || past > room - tokens) throw nb::value_error("the caches have no room");
    if (asked < 0 || asked > tokens) throw nb::value_error("logits of more tokens than there are");
    BoundSequence made{
        {.tokens = tokens, .past = past, .asked = asked, .cache_type = cache_type, .caches = nullptr, .room = room},
        {}};
    for (const uintptr_t cache : caches) made.caches.push_back(reinterpret_cast<Cache>(cache));
    return made;
}

class BoundDecoder {
  public:
    BoundDecoder(int64_t hidden, int64_t queries, int64_t heads, int64_t head_size, int64_t window)
        : shape_{hidden, queries, heads, head_size, window} {}

    void add_layer(const SizedNorm& attention_norm, std::vector<Projection> query_key_value,
                   const std::optional<SizedNorm>& query_norm, const std::optional<SizedNorm>& key_norm,
                   std::vector<Projection> output, const SizedNorm& mlp_norm, std::vector<Projection> gate_up,
                   std::vector<Projection> down) {
        const auto of_head = [&](const char* name, const std::optional<SizedNorm>& norm) {
            return norm ? checked(name, *norm, shape_.head_size) : Norm{};
        };
        layers_.push_back({
            .attention_norm = checked("attention_norm", attention_norm, shape_.hidden),
            .query_key_value = std::move(query_key_value),
            .query_norm = of_head("query_norm", query_norm),
            .key_norm = of_head("key_norm", key_norm),
            .output = std::move(output),
            .mlp_norm = checked("mlp_norm", mlp_norm, shape_.hidden),
            .gate_up = std::move(gate_up),
            .down = std::move(down),
        });
    }

    void finish(const SizedNorm& norm, std::vector<Projection> head) {
        decoder_.emplace(shape_, std::move(layers_), checked("norm", norm, shape_.hidden), std::move(head));
    }

    void step(uintptr_t x, uintptr_t cos, uintptr_t sin, const std::vector<BoundSequence>& sequences, uintptr_t logits,
              int threads) const {
        if (!decoder_) throw nb::value_error("finish has not been called");
        if (sequences.empty()) throw nb::value_error("there are no sequences");
        for (const BoundSequence& sequence : sequences) {
            require_length("caches", sequence.caches.size(), decoder_->layers());
        }
        const nb::gil_scoped_release unlocked;
        DecoderStep step{
            .x = reinterpret_cast<const float*>(x),
            .cos = reinterpret_cast<const float*>(cos),
            .sin = reinterpret_cast<const float*>(sin),
            .sequences = {},
            .logits = reinterpret_cast<float*>(logits),
        };
        for (const BoundSequence& sequence : sequences) {
            step.sequences.push_back(sequence.sequence);
            step.sequences.back().caches = sequence.caches.data();
        }
        decoder_->run(step, threads);
    }

  private:
    static Norm checked(const char* name, const SizedNorm& norm, int64_t size) {
        require_length(name, static_cast<size_t>(norm.size), size);
        return norm.norm;
    }

    DecoderShape shape_;
    std::vector<DecoderLayer> layers_;
    std::optional<Decoder> decoder_;
};

}  // namespace

void bind_decoder(nb::module_& m) {
    // Arrays are not copied: `tilepress.engines.transformers.generation.decode_step` keeps them.
    nb::class_<Projection>(m, "Projection", "A linear. The arrays have to outlive it and what it is given to.")
        .def_static("compressed", &compressed, nb::arg("weight").noconvert(), nb::arg("index").noconvert(),
                    nb::arg("info").noconvert(), nb::arg("input_scale"), nb::arg("input_offset"),
                    nb::arg("deq_scale").noconvert(), nb::arg("quant_bias").noconvert(),
                    nb::arg("weight_sums").noconvert().none(), "As tilepress.kernels.linear has them.")
        .def_static("of_16_bits", &of_16_bits, nb::arg("weight").noconvert(), nb::arg("bfloat"),
                    nb::arg("bias").noconvert().none(), "Float16 or bfloat16 [n, k], seen as int16; float32 [n].")
        .def_static("of_32_bits", &of_32_bits, nb::arg("weight").noconvert(), nb::arg("bias").noconvert().none(),
                    "Float32 [n, k] and [n].");
    nb::enum_<CacheType>(m, "CacheType", "How rows of the cache are kept; int8 has its scale, a float32, behind it.")
        .value("float32", CacheType::float32)
        .value("float16", CacheType::float16)
        .value("int8", CacheType::int8);
    nb::class_<SizedNorm>(m, "Norm", "RMSNorm. The arrays have to outlive it and what it is given to.")
        .def_static("of", &make_norm, nb::arg("gain").noconvert(), nb::arg("bias").noconvert().none(),
                    nb::arg("epsilon"), "Float32 [size], both.");
    nb::class_<BoundSequence>(m, "Sequence", "Tokens of a sequence, for Decoder.step.")
        .def_static("of", &make_sequence,
                    "tokens; past, those in the caches; asked, of the last tokens; the caches' type, a list of their "
                    "addresses [2, heads, room] rows, and room.");
    nb::class_<BoundDecoder>(m, "Decoder", "The forward pass for tokens of some sequences.")
        .def(nb::init<int64_t, int64_t, int64_t, int64_t, int64_t>(), nb::arg("hidden"), nb::arg("queries"),
             nb::arg("heads"), nb::arg("head_size"), nb::arg("window"), "window: 0 for none.")
        .def("add_layer", &BoundDecoder::add_layer, nb::arg("attention_norm"), nb::arg("query_key_value"),
             nb::arg("query_norm").none(), nb::arg("key_norm").none(), nb::arg("output"), nb::arg("mlp_norm"),
             nb::arg("gate_up"), nb::arg("down"))
        .def("finish", &BoundDecoder::finish, nb::arg("norm"), nb::arg("head"),
             "Raises ValueError where shapes differ.")
        .def("step", &BoundDecoder::step,
             "Addresses, contiguous, of float32: x [tokens, hidden], cos and sin [tokens, head size]; sequences, whose "
             "tokens follow one another; the address of logits [asked, vocabulary]; threads. Raises BitstreamError for "
             "damaged tiles.");
}

}  // namespace tilepress
