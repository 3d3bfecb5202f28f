# shellcheck shell=bash
# bash's completion of orchd: source this, or link it into
# ~/.local/share/bash-completion/completions under the name orchd.

_orchd() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} choices
    case $before in
        --config)
            compopt -o filenames 2>/dev/null || true
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            return
            ;;
        --log-level) choices='debug info warning error' ;;
        --log-format) choices='text json' ;;
        --priority) choices='interactive batch' ;;
        --pool | --max-tokens | --seed) choices= ;;
        *)
            choices='--help --config'
            case ${COMP_WORDS[1]} in
                serve) choices+=' --log-level --log-format' ;;
                check) choices+=' --json' ;;
                ask) choices+=' --pool --priority --max-tokens --seed' ;;
                status) choices+=' --watch --json' ;;
                help) choices='serve check ask status' ;;
            esac
            if ((COMP_CWORD == 1)); then
                choices='serve check ask status help --help --version'
            fi
            ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$word")
}
complete -F _orchd orchd
