# `cmake --install build/cpu --prefix DIR`: the programs, and what `cbq` writes about itself: the manual page and the completion
# scripts of shells, each where its reader looks for it.
include(GNUInstallDirs)

set(texts)
# cbq_text(<file below the data folder> <arguments of cbq>...)
function(cbq_text file)
  set(output ${CMAKE_BINARY_DIR}/share/${file})
  cmake_path(GET output PARENT_PATH folder)
  file(MAKE_DIRECTORY ${folder})
  add_custom_command(OUTPUT ${output} COMMAND cbq_cli ${ARGN} > ${output} DEPENDS cbq_cli VERBATIM
                     COMMENT "cbq ${ARGN}")
  set(texts ${texts} ${output} PARENT_SCOPE)
  cmake_path(GET file PARENT_PATH below)
  install(FILES ${output} DESTINATION ${CMAKE_INSTALL_DATADIR}/${below})
endfunction()

cbq_text(man/man1/cbq.1 man)
cbq_text(bash-completion/completions/cbq completion bash)
cbq_text(zsh/site-functions/_cbq completion zsh)
cbq_text(fish/vendor_completions.d/cbq.fish completion fish)
add_custom_target(cbq_texts ALL DEPENDS ${texts})

install(TARGETS cbq_cli run_ablation RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
