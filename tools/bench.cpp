// bench: how fast the parts are, on this machine, now.
#include "tools/bench/bench.h"

#include <fmt/core.h>

#include "tensor/runtime/environment.h"
#include "tensor/runtime/program.h"

int main(int argc, char** argv) {
  cbq::start_program(argv);
  CLI::App app("Benchmarks of CBQ");
  app.require_subcommand(1);
  app.footer(cbq::environment_help());
  app.parse_complete_callback(cbq::check_environment);
  cbq::bench::add_ops_command(app);
  cbq::bench::add_step_command(app);
  cbq::bench::add_run_command(app);
  try {
    app.parse(argc, argv);
    return cbq::finish_output();
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;  // as cbq: 2 for a wrong command line
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench: {}\n", error.what());
    return 1;
  }
}
