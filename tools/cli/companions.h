// The files of a model folder that are neither weights nor this program's own.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace cbq::cli {

/// Copies from one model folder to another what its user needs beside the weights: every regular
/// file (tokenizer, chat template, licence, model card, code), and the chat templates of the folder
/// additional_chat_templates. Left out are
///   - weights and lists of weights, by their names (*.safetensors, *.bin, *.gguf, *.index.json,
///   ...),
///   - config.json and the files that `cbq` writes of its runs (recipe.json, log.txt, ...),
///   - files that are in `to` already,
///   - other sub-folders: they hold weights in other formats, or a version history,
///   - files of more than `most_bytes`, which are weights of a kind not known here,
///   - what is not a regular file, nor a link to one.
/// `say` gets a line about each of the last three kinds. Throws std::runtime_error with path and
/// reason when a file cannot be copied.
void copy_companions(const std::filesystem::path& from, const std::filesystem::path& to,
                     const std::function<void(const std::string&)>& say,
                     int64_t most_bytes = int64_t{256} << 20);

/// Of these only what belongs to the tokenizer: its settings, added tokens and chat templates.
/// `from`: a folder, or a file beside which they lie.
void copy_tokenizer_companions(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace cbq::cli
