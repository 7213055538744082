# What the build tree and the installation do with staged plugins, and how techniques are tested in the tree.
set(TENON_STORE ${CMAKE_BINARY_DIR}/lib/tenon)

# Called once, after all plugins: the store that a build-tree `tenon` reads, and the one of an installation. Both are written by
# tenon-store, so that every object is tried and its digest recorded; a store finds its files by relative paths and may be moved.
function(tenon_store)
  get_property(staged GLOBAL PROPERTY TENON_STAGED)
  get_property(targets GLOBAL PROPERTY TENON_STAGED_TARGETS)
  set(manifests ${staged})
  list(TRANSFORM manifests APPEND /manifest.json)
  add_custom_command(OUTPUT ${TENON_STORE}/installed
    COMMAND tenon-store install --store ${TENON_STORE} ${staged}
    COMMAND ${CMAKE_COMMAND} -E touch ${TENON_STORE}/installed
    DEPENDS ${manifests} ${targets} tenon-store
    COMMENT "Installing plugins into the store of the build tree")
  add_custom_target(store ALL DEPENDS ${TENON_STORE}/installed)
  list(JOIN staged "\" \"" folders)
  install(CODE "
    execute_process(COMMAND \"${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/tenon-store\" install --store
                            \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/lib/tenon\" \"${folders}\"
                    COMMAND_ERROR_IS_FATAL ANY)")
endfunction()

# tenon_plugin_test(ID sources... [LIBS libraries...]): the test <id>_test of a technique. It loads the very objects that ship, one per CPU
# level, through sdk/testing/host.h.
function(tenon_plugin_test id)
  if(NOT TENON_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "LIBS" ${ARGN})
  tenon_test(${id}_test ${ARG_UNPARSED_ARGUMENTS} LIBS tenon::sdk ${CMAKE_DL_LIBS} ${ARG_LIBS})
  target_include_directories(${id}_test PRIVATE ${CMAKE_SOURCE_DIR})
  set(paths "")
  foreach(level ${TENON_CPU_LEVELS})
    list(APPEND paths ${TENON_STAGING}/${id}/${id}.onednn.${level}.so)
    add_dependencies(${id}_test ${id}.onednn.${level})
  endforeach()
  list(JOIN paths "|" paths)
  target_compile_definitions(${id}_test PRIVATE TENON_PLUGIN_OBJECTS="${paths}")
endfunction()
