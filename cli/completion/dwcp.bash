# SPDX-License-Identifier: MIT
# bash completion for dwcp. The program itself tells its commands and flags, so this never goes out of date.

_dwcp() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} words=() lines values flag w
	COMPREPLY=()

	# `--flag=val` comes as three words because = breaks words.
	if [[ $cur == = ]]; then
		flag=$prev cur=
	elif [[ $prev == = && COMP_CWORD -ge 2 ]]; then
		flag=${COMP_WORDS[COMP_CWORD - 2]}
	elif [[ $prev == --* ]]; then
		flag=$prev
	fi

	for w in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
		[[ $w == [a-z]* ]] || break
		[[ $w == help ]] || words+=("$w")
	done
	lines=$("${COMP_WORDS[0]}" --complete "${words[@]}" 2>/dev/null) || return 0

	if [[ -n ${flag:-} ]]; then
		values=$(awk -v f="$flag" '$1 == f { for (i = 2; i <= NF; i++) print $i }' <<<"$lines")
		if [[ -n $values ]]; then
			mapfile -t COMPREPLY < <(compgen -W "$values" -- "$cur")
			return 0
		fi
	fi
	if [[ $cur == -* || $lines != -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(awk '{ print $1 }' <<<"$lines")" -- "$cur")
	fi
}

complete -o default -F _dwcp dwcp
