"""What becomes of each directive of Squid 3.5 to 6 that is not translated: one table. `squid` has those that are.

Each has one fate: without meaning here (noted); about security and not to be expressed (a fault, lenient or not); of effect and
not to be expressed (a fault, with lenient a note). A word that neither module has is unknown to Squid too.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Fate(NamedTuple):
    """What becomes of a directive.

    kind    `noted`; `refused`, also when lenient; `missed`: a fault unless lenient
    reason  why
    unless  values with which it says what holds anyway
    """

    kind: Literal["noted", "refused", "missed"]
    reason: str
    unless: tuple[str, ...] = ()


def _noted(reason: str, names: str) -> dict[str, Fate]:
    return dict.fromkeys(names.split(), Fate("noted", reason))


def _refused(reason: str, names: str, *unless: str) -> dict[str, Fate]:
    return dict.fromkeys(names.split(), Fate("refused", reason, unless))


def _missed(reason: str, names: str, *unless: str) -> dict[str, Fate]:
    return dict.fromkeys(names.split(), Fate("missed", reason, unless))


FATES: dict[str, Fate] = {
    # --- without meaning here
    **_noted(
        "nothing is cached here",
        """broken_vary_encoding cache cache_dir cache_mem cache_miss_revalidate cache_replacement_policy cache_store_log
        cache_swap_high cache_swap_log cache_swap_low cache_swap_state cache_vary collapsed_forwarding
        collapsed_forwarding_access collapsed_forwarding_shared_entries_limit diskd_program digest_bits_per_entry
        digest_generation digest_rebuild_chunk_percentage digest_rebuild_period digest_rewrite_period
        digest_swapout_chunk_size ie_refresh ignore_ims_on_miss max_open_disk_fds max_stale maximum_object_size
        maximum_object_size_in_memory memory_cache_mode memory_cache_shared memory_replacement_policy
        minimum_expiry_time minimum_object_size negative_ttl no_cache offline_mode paranoid_hit_validation
        quick_abort_max quick_abort_min quick_abort_pct range_offset_limit read_ahead_gap refresh_all_ims
        refresh_pattern refresh_stale_hit reload_into_ims send_hit shared_transient_entries_limit
        store_avg_object_size store_dir_select_algorithm store_id_access store_id_bypass store_id_children
        store_id_extras store_id_program store_miss store_objects_per_bucket storeurl_rewrite_access
        storeurl_rewrite_bypass storeurl_rewrite_children storeurl_rewrite_program unlinkd_program update_headers
        vary_ignore_expire zero_buffers""",
    ),
    **_noted(
        "there are no caches beside this one to ask (ICP, HTCP, digests, NetDB, WCCP)",
        """background_ping_rate dead_peer_timeout hierarchy_stoplist htcp_access htcp_clr_access htcp_port icp_access
        icp_hit_stale icp_port icp_query_timeout log_icp_queries maximum_icp_query_timeout mcast_groups
        mcast_icp_query_timeout mcast_miss_addr mcast_miss_encode_key mcast_miss_port mcast_miss_ttl
        minimum_direct_hops minimum_direct_rtt minimum_icp_query_timeout neighbor_type_domain netdb_filename
        netdb_high netdb_low netdb_ping_period pinger_enable pinger_program query_icmp test_reachability
        udp_incoming_address udp_outgoing_address udp_port wccp2_address wccp2_assignment_method
        wccp2_forwarding_method wccp2_rebuild_wait wccp2_return_method wccp2_router wccp2_service
        wccp2_service_info wccp2_weight wccp_address wccp_router wccp_version""",
    ),
    **_noted(
        "this is about Squid's process and its files",
        """accept_filter buffered_logs cache_effective_group cache_effective_user cache_log cache_log_message chroot
        client_db coredump_dir cpu_affinity_map debug_options high_memory_warning high_page_fault_warning
        high_response_time_warning hopeless_kid_revival_delay incoming_dns_average incoming_http_average
        incoming_icp_average incoming_rate incoming_tcp_average incoming_udp_average loadable_modules
        log_icap logfile_daemon logfile_rotate mail_from mail_program max_filedesc max_filedescriptors
        memory_pools memory_pools_limit mime_table min_dns_poll_cnt min_http_poll_cnt min_icp_poll_cnt
        min_tcp_poll_cnt min_udp_poll_cnt pid_filename shared_memory_locking sleep_after_fork stats_collection
        tcp_recv_bufsize umask windows_ipaddrchangemonitor workers""",
    ),
    **_noted(
        "error pages are this proxy's own",
        """cache_mgr deny_info email_err_data err_html_text err_page_stylesheet error_default_language error_directory
        error_log_languages error_map global_internal_static httpd_suppress_version_string icon_directory
        short_icon_urls""",
    ),
    **_noted(
        "this proxy names itself in its own way",
        "hostname_aliases httpd_accel_surrogate_id http_accel_surrogate_remote",
    ),
    **_noted(
        "FTP is not spoken here",
        """ftp_client_idle_timeout ftp_eprt ftp_epsv ftp_epsv_all ftp_list_width ftp_passive ftp_sanitycheck
        ftp_telnet_protocol ftp_user""",
    ),
    **_noted(
        "there is no SNMP here; /metrics on the admin port counts",
        "snmp_access snmp_incoming_address snmp_outgoing_address snmp_port",
    ),
    **_noted(
        "users are not asked for here",
        """authenticate_cache_garbage_interval authenticate_ip_ttl authenticate_ttl ident_lookup_access ident_timeout
        auth_schemes""",
    ),
    **_noted(
        "connections are kept and dialled in this proxy's own way; see timeouts and limits of the native form",
        """client_persistent_connections client_request_buffer_max_size connect_retries detect_broken_pconn
        force_request_body_continuation forward_max_tries forward_timeout happy_eyeballs_connect_gap
        happy_eyeballs_connect_limit happy_eyeballs_connect_timeout peer_connect_timeout
        persistent_connection_after_error pipeline_prefetch reply_header_max_size request_start_timeout
        retry_on_error server_persistent_connections server_pconn_for_nonretriable ssl_unclean_shutdown
        sslproxy_session_cache_size sslproxy_session_ttl write_timeout""",
    ),
    **_noted("a client that ends its half of the connection still gets what it asked for", "half_closed_clients"),
    **_noted(
        "names are looked up in this proxy's own way; see dns of the native form",
        """dns_multicast_local dns_packet_max dns_testnames fqdncache_size hosts_file ignore_unknown_nameservers
        ipcache_high ipcache_low check_hostnames allow_underscore dns_timeout""",
    ),
    **_noted("it has no effect on a proxy that decrypts nothing", "ssl_engine sslpassword_program tls_key_log"),
    **_noted("log lines are this proxy's own", "log_mime_hdrs strip_query_terms icap_log eui_lookup"),
    **_noted("it only marks requests for Squid's own use", "note adaptation_meta adaptation_masterx_shared_names"),
    **_noted("malformed requests are always refused", "relaxed_header_parser uri_whitespace"),
    **_noted("AS numbers are not asked for here", "as_whois_server"),
    **_noted(
        "Squid itself ignores it since version 3 to 5",
        """announce_file announce_host announce_period announce_port balance_on_multiple_ip
        chunked_request_body_max_size dns_v4_fallback dns_v4_first emulate_httpd_log esi_parser extension_methods
        forward_log httpd_accel_no_pmtu_disc ignore_expect_100 log_fqdn log_ip_on_direct
        maximum_single_addr_tries referer_log referrer_log request_entities server_http11 upgrade_http0.9
        url_rewrite_concurrency useragent_log wais_relay_host wais_relay_port zph_local zph_mode zph_option
        zph_parent zph_sibling""",
    ),
    # --- about security, and not to be expressed
    **_refused("users are not asked for here; allow clients by their address (acl src)", "auth_param"),
    **_refused("programs are not asked here; write what they know as ACLs", "external_acl_type external_refresh_check"),
    **_refused("TLS is never decrypted here", "ssl_bump", "none all", "splice all"),
    **_refused(
        "TLS is never decrypted here",
        """sslcrtd_children sslcrtd_program sslcrtvalidator_children sslcrtvalidator_program sslproxy_cert_adapt
        sslproxy_cert_error sslproxy_cert_sign sslproxy_cert_sign_hash sslproxy_foreign_intermediate_certs""",
    ),
    **_refused(
        "Squid's own TLS with servers is for requests that it decrypted; here tls of a service says it",
        """sslproxy_cafile sslproxy_capath sslproxy_cipher sslproxy_client_certificate sslproxy_client_key
        sslproxy_flags sslproxy_options sslproxy_version tls_outgoing_options""",
    ),
    **_refused("answers are not judged here, only requests", "http_reply_access reply_header_access", "allow all"),
    **_refused(
        "requests are judged once; put it into http_access", "adapted_http_access http_access2 miss_access", "allow all"
    ),
    **_refused(
        "WebSocket, and nothing else, may be switched to wherever a request may go",
        "http_upgrade_request_protocols",
        "WebSocket allow all",
        "websocket allow all",
    ),
    **_refused("log_access is access_log with ACLs, which logs here do not ask", "log_access", "allow all"),
    **_refused(
        "header fields of clients are sent on as they are; services may set fields",
        """header_access header_replace reply_header_add reply_header_replace request_header_access request_header_add
        request_header_replace""",
    ),
    **_refused("the address that a client comes from is the one that counts", "follow_x_forwarded_for", "deny all"),
    **_refused(
        "needs proxy_protocol on a native listener, with the addresses that may announce clients",
        "proxy_protocol_access",
        "deny all",
    ),
    **_refused(
        "requests are not rewritten here; if the program filters, write its lists as ACLs",
        """location_rewrite_access location_rewrite_children location_rewrite_concurrency location_rewrite_program
        redirect_children redirect_program redirect_rewrites_host_header redirector_access redirector_bypass
        url_rewrite_access url_rewrite_bypass url_rewrite_children url_rewrite_extras url_rewrite_host_header
        url_rewrite_program url_rewrite_timeout""",
    ),
    **_refused(
        "contents are not looked at here (ICAP, eCAP)",
        """adaptation_access adaptation_service_chain adaptation_service_iteration_limit adaptation_service_set
        ecap_service icap_access icap_class icap_service""",
    ),
    **_refused("contents are not looked at here (ICAP, eCAP)", "icap_enable ecap_enable", "off"),
    **_noted(
        "contents are not looked at here (ICAP, eCAP)",
        """adaptation_send_client_ip adaptation_send_username adaptation_uses_indirect_client icap_206_enable
        icap_client_username_encode icap_client_username_header icap_connect_timeout icap_default_options_ttl
        icap_io_timeout icap_persistent_connections icap_preview_enable icap_preview_size icap_retry
        icap_retry_limit icap_send_client_ip icap_send_client_username icap_service_failure_limit
        icap_service_revival_delay icap_uses_indirect_client""",
    ),
    **_refused(
        "where connections leave from is the system's to say (routes, or a proxy per address)",
        "tcp_outgoing_address",
    ),
    **_refused(
        "the Host of a captured request is what it is judged by, and what is looked up", "host_verify_strict", "off"
    ),
    **_refused("captured requests are sent where their Host leads", "client_dst_passthru", "on"),
    **_refused("no connection pretends to be its client's", "spoof_client_ip", "deny all"),
    **_refused("what is not HTTP is refused on this port", "on_unsupported_protocol", "respond all", "terminate all"),
    **_refused(
        "manager pages take no password here; say with http_access who may see them", "cachemgr_passwd", "none all"
    ),
    **_refused(
        "the values of all directives would be read in another way", "configuration_includes_quoted_values", "off"
    ),
    **_refused("FTP is not spoken here", "ftp_port"),
    # --- of effect, and not to be expressed
    **_missed("connections are not counted by client", "client_ip_max_connections", "-1"),
    **_missed("bandwidth is not shared out here", "client_delay_pools delay_pools", "0"),
    **_noted(
        "bandwidth is not shared out here",
        """client_delay_access client_delay_initial_bucket_level client_delay_parameters delay_access delay_class
        delay_initial_bucket_level delay_parameters delay_pool_uses_indirect_client response_delay_pool
        response_delay_pool_access""",
    ),
    **_missed("answers have no bound here", "reply_body_max_size", "none", "0", "0 KB"),
    **_missed("names are looked up as they are; write whole names", "append_domain"),
    **_missed(
        "packets are not marked here; the system can mark what this user sends",
        """clientside_mark clientside_tos mark_client_connection mark_client_packet qos_flows tcp_outgoing_dscp
        tcp_outgoing_ds tcp_outgoing_mark tcp_outgoing_tos""",
    ),
    **_missed("log lines hold the client's whole address", "client_netmask", "255.255.255.255"),
    **_missed("requests are sent on as they are", "broken_posts"),
    **_missed("parents are named by cache_peer_access", "cache_host_domain cache_peer_domain"),
    **_noted(
        "without effect: nobody's X-Forwarded-For is believed here",
        "acl_uses_indirect_client log_uses_indirect_client tproxy_uses_indirect_client",
    ),
    **_noted("without effect where never_direct and always_direct decide", "nonhierarchical_direct prefer_direct"),
}
