#!/usr/bin/env bash
# A resuming client in curl: curl.sh URL prints {"open":true}, {"id":…} or {"gap":…} a line.
url=$1 last=
while :; do
    id='' event='' data=''
    while IFS= read -r line; do
        case $line in
            ": hello") echo '{"open":true}' ;;
            "id: "*) id=${line#id: } ;;
            "event: "*) event=${line#event: } ;;
            "data: "*) data=${line#data: } ;;
            "") # Only a whole block counts, its id too.
                if [[ $event == gap ]]; then
                    printf '{"gap":%s}\n' "$data"
                elif [[ $data ]]; then
                    printf '{"id":"%s"}\n' "$id"
                fi
                last=${id:-$last} id='' event='' data=''
                ;;
        esac
    done < <(curl -sN --noproxy '*' -H "Last-Event-ID: $last" "$url")
    sleep 0.1
done
