"""Complete command lines in bash, zsh and fish: argcomplete uses the command's parser, and this package adds candidates.

    scripts     the completion script of each shell
    candidates  the candidates for an argument: files, keys, values, profiles
    answer      the answer to a completion request of a shell, and the completer of each argument

A module imports only modules listed above it. `candidates` and `answer` are imported only for a completion request.
"""
