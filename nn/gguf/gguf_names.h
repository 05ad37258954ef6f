// Names of a model's tensors in GGUF files and in Hugging Face folders.
#pragma once

namespace cbq {

/// A part of a block: "blk.N.`theirs`.weight" is "model.layers.N.`ours`.weight", biases alike.
struct GgufPart {
  const char* theirs;
  const char* ours;
};

inline constexpr GgufPart gguf_q = {"attn_q", "self_attn.q_proj"},
                          gguf_k = {"attn_k", "self_attn.k_proj"},
                          gguf_v = {"attn_v", "self_attn.v_proj"},
                          gguf_o = {"attn_output", "self_attn.o_proj"},
                          gguf_gate = {"ffn_gate", "mlp.gate_proj"},
                          gguf_up = {"ffn_up", "mlp.up_proj"},
                          gguf_down = {"ffn_down", "mlp.down_proj"},
                          gguf_attention_norm = {"attn_norm", "input_layernorm"},
                          gguf_q_norm = {"attn_q_norm", "self_attn.q_norm"},
                          gguf_k_norm = {"attn_k_norm", "self_attn.k_norm"},
                          gguf_ffn_norm = {"ffn_norm", "post_attention_layernorm"};
inline constexpr GgufPart gguf_block_parts[] = {
    gguf_q,       gguf_k,    gguf_v,      gguf_o,      gguf_gate,
    gguf_up,      gguf_down, gguf_q_norm, gguf_k_norm, gguf_attention_norm,
    gguf_ffn_norm};

/// Outside the blocks, with ".weight".
inline constexpr GgufPart gguf_embedding = {"token_embd", "model.embed_tokens"},
                          gguf_final_norm = {"output_norm", "model.norm"},
                          gguf_head = {"output", "lm_head"};

}  // namespace cbq
