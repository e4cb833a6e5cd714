// SPDX-License-Identifier: GPL-2.0
/*
 * tlssim: a test device for the lab of ktls-fleet. It plays a network card
 * with TLS offload on top of any Ethernet device, and encrypts in software
 * when it transmits. Never meant for a machine that serves anybody.
 *
 *	ip link add link LOWER name sim0 type tlssim
 *
 * README.md says what it does, what its knobs do and what it does not play.
 */

#include <linux/debugfs.h>
#include <linux/etherdevice.h>
#include <linux/ethtool.h>
#include <linux/if_arp.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <linux/tcp.h>
#include <linux/version.h>
#include <linux/workqueue.h>
#include <net/rtnetlink.h>
#include <net/tls.h>

#if !IS_ENABLED(CONFIG_TLS_DEVICE)
#error "this kernel has no TLS offload (CONFIG_TLS_DEVICE)"
#endif

#define DRIVER			"tlssim"
#define DEFAULT_CAPACITY	65536
/* How long a packet that is held back waits for a later one to overtake it. */
#define HOLD_MS			20
#define HW_TLS			(NETIF_F_HW_TLS_TX | NETIF_F_HW_TLS_RX)
#define BASE_FEATURES		(NETIF_F_SG | NETIF_F_HIGHDMA | NETIF_F_HW_CSUM | NETIF_F_RXCSUM | \
				 NETIF_F_TSO | NETIF_F_TSO_ECN | NETIF_F_TSO_MANGLEID | NETIF_F_TSO6)

/* Those that begin with tx_tls or rx_tls are named and counted as mlx5 does. */
#define COUNTERS(X)							\
	X(tx_tls_ctx)		/* sessions accepted since the start */	\
	X(tx_tls_del)		/* and given up */			\
	X(tx_tls_refused)	/* and refused, both directions */	\
	X(tx_tls_encrypted_packets)	/* after segmentation */	\
	X(tx_tls_encrypted_bytes)	/* of TCP payload */		\
	X(tx_tls_ooo)		/* not the byte that was to come next */ \
	X(tx_tls_skip_no_sync_data)	/* from before TLS: sent as is */ \
	X(tx_tls_drop_no_sync_data)	/* record not known any more */	\
	X(rx_tls_ctx)							\
	X(rx_tls_del)							\
	X(rx_tls_resync_req_pkt)	/* the core told us where a record starts */ \
	X(sim_corrupted)	/* what the knobs did */		\
	X(sim_leaked)							\
	X(sim_dropped)							\
	X(sim_reordered)

#define AS_ENUM(name) C_##name,
enum counter { COUNTERS(AS_ENUM) COUNTER_COUNT };

#define AS_STRING(name) #name,
static const char counter_names[][ETH_GSTRING_LEN] = { COUNTERS(AS_STRING) };

/* What happens to a packet; when several are due, the first of these. */
#define FATES(X)	X(leak) X(corrupt) X(drop) X(reorder)

#define AS_FATE(name) FATE_##name,
enum fate { FATES(AS_FATE) FATE_COUNT, FATE_NORMAL = FATE_COUNT };

#define AS_KNOB(name) #name "_every",
static const char *const fate_knobs[] = { FATES(AS_KNOB) };

/* Every Nth packet to encrypt, counted from when the knob was turned; 0: never. */
struct knob {
	u32 every;
	atomic_t passed;
};

struct tlssim {
	struct net_device *dev;
	struct net_device *lower;
	struct dentry *knobs;
	atomic64_t counters[COUNTER_COUNT];

	/* Knobs: debugfs writes them at any time. */
	u32 capacity;
	u32 refuse_errno;
	struct knob fates[FATE_COUNT];

	/* Sessions on the device now, by direction (enum tls_offload_ctx_dir). */
	atomic_t sessions[2];

	/* One that a later packet shall overtake; the lock of the only transmit queue is its lock. */
	struct sk_buff *held;
	struct delayed_work release;
};

/* What we keep for each transmit session, in the room that the core leaves us. */
struct tx_session {
	u32 next_seq;
};

static struct dentry *debugfs_root;

static void count(struct tlssim *sim, enum counter which, u64 by)
{
	atomic64_add(by, &sim->counters[which]);
}

static void forget_offload(struct sk_buff *skb)
{
	skb->decrypted = 0;
}

/* Transmit */

static enum fate next_fate(struct tlssim *sim)
{
	enum fate fate = FATE_NORMAL;
	int i;

	for (i = FATE_COUNT - 1; i >= 0; i--) {
		u32 every = READ_ONCE(sim->fates[i].every);

		if (every && (u32)atomic_inc_return(&sim->fates[i].passed) % every == 0)
			fate = i;
	}
	return fate;
}

/* Whether the core left the encryption of this packet to us. */
static bool is_ours(struct tlssim *sim, struct sk_buff *skb)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
	if (!tls_is_skb_tx_device_offloaded(skb))
		return false;
#else
	if (!skb->sk || !tls_is_sk_tx_device_offloaded(skb->sk))
		return false;
#endif
	if (rcu_access_pointer(tls_get_ctx(skb->sk)->netdev) != sim->dev)
		return false;
	return skb->len > skb_tcp_all_headers(skb);
}

static void count_encrypted(struct tlssim *sim, struct sk_buff *skb, unsigned int payload)
{
	count(sim, C_tx_tls_encrypted_packets, skb_is_gso(skb) ? skb_shinfo(skb)->gso_segs : 1);
	count(sim, C_tx_tls_encrypted_bytes, payload);
}

/* Returns what goes on the wire, or NULL when nothing does. */
static struct sk_buff *encrypt(struct tlssim *sim, struct sk_buff *skb, enum fate fate)
{
	struct tx_session *session = tls_driver_ctx(skb->sk, TLS_OFFLOAD_CTX_DIR_TX);
	unsigned int payload = skb->len - skb_tcp_all_headers(skb);
	u32 seq = ntohl(tcp_hdr(skb)->seq);
	struct sk_buff *encrypted;

	if (seq != session->next_seq)
		count(sim, C_tx_tls_ooo, 1);
	session->next_seq = seq + payload;

	if (fate == FATE_leak) {
		/* As a broken card does it: nothing in the counters of the driver tells. */
		count_encrypted(sim, skb, payload);
		count(sim, C_sim_leaked, 1);
		return skb;
	}
	encrypted = tls_encrypt_skb(skb);
	if (!encrypted) {
		/* It has freed the packet. */
		count(sim, C_tx_tls_drop_no_sync_data, 1);
		DEV_STATS_INC(sim->dev, tx_dropped);
		return NULL;
	}
	/* validate_xmit_skb_list() wants this of a segment, and we are past it. */
	encrypted->prev = NULL;
	if (encrypted == skb) {
		count(sim, C_tx_tls_skip_no_sync_data, 1);
		return skb;
	}
	count_encrypted(sim, encrypted, payload);
	if (fate == FATE_corrupt) {
		/* tls_encrypt_skb() made a copy, in one piece: neither the socket nor a file shares it. */
		encrypted->data[encrypted->len - 1] ^= 0x80;
		count(sim, C_sim_corrupted, 1);
	} else if (fate == FATE_drop) {
		count(sim, C_sim_dropped, 1);
		DEV_STATS_INC(sim->dev, tx_dropped);
		kfree_skb(encrypted);
		return NULL;
	}
	return encrypted;
}

static void transmit(struct tlssim *sim, struct sk_buff *skb, bool ours, enum fate fate)
{
	unsigned int len;
	struct sock *sk;

	if (ours) {
		skb = encrypt(sim, skb, fate);
		if (!skb)
			return;
	}
	/*
	 * The device below would have a packet of such a socket encrypted in
	 * software, once more. And what it gets is not plaintext any more: a
	 * receiver that believed the flag would take it for that.
	 */
	sk = skb->sk;
	if (sk && sk_fullsock(sk) && READ_ONCE(sk->sk_validate_xmit_skb))
		skb_orphan(skb);
	forget_offload(skb);

	len = skb->len;
	skb->dev = sim->lower;
	if (likely(dev_queue_xmit(skb) == NET_XMIT_SUCCESS)) {
		DEV_STATS_INC(sim->dev, tx_packets);
		DEV_STATS_ADD(sim->dev, tx_bytes, len);
	} else {
		DEV_STATS_INC(sim->dev, tx_dropped);
	}
}

static void transmit_held(struct tlssim *sim)
{
	struct sk_buff *skb = sim->held;

	sim->held = NULL;
	if (!skb)
		return;
	if (is_ours(sim, skb)) {
		transmit(sim, skb, true, FATE_NORMAL);
	} else {
		/* It is plaintext, and nobody else would encrypt it. */
		DEV_STATS_INC(sim->dev, tx_dropped);
		kfree_skb(skb);
	}
}

static netdev_tx_t tlssim_xmit(struct sk_buff *skb, struct net_device *dev)
{
	struct tlssim *sim = netdev_priv(dev);
	enum fate fate = FATE_NORMAL;
	bool ours = is_ours(sim, skb);

	if (ours)
		fate = next_fate(sim);
	if (fate == FATE_reorder && !sim->held) {
		/* Held as plaintext, so that encryption too meets the records in the wrong order. */
		count(sim, C_sim_reordered, 1);
		sim->held = skb;
		schedule_delayed_work(&sim->release, msecs_to_jiffies(HOLD_MS));
		return NETDEV_TX_OK;
	}
	transmit(sim, skb, ours, fate);
	transmit_held(sim);
	return NETDEV_TX_OK;
}

static void tlssim_release(struct work_struct *work)
{
	struct tlssim *sim = container_of(to_delayed_work(work), struct tlssim, release);
	struct netdev_queue *queue = netdev_get_tx_queue(sim->dev, 0);

	rcu_read_lock();
	__netif_tx_lock_bh(queue);
	transmit_held(sim);
	__netif_tx_unlock_bh(queue);
	rcu_read_unlock();
}

/* Receive: all frames of the lower device are ours. */

static rx_handler_result_t tlssim_receive(struct sk_buff **pskb)
{
	struct sk_buff *skb = *pskb;
	struct tlssim *sim = rcu_dereference(skb->dev->rx_handler_data);

	if (skb->pkt_type == PACKET_LOOPBACK)
		return RX_HANDLER_PASS;
	skb = skb_share_check(skb, GFP_ATOMIC);
	*pskb = skb;
	if (!skb)
		return RX_HANDLER_CONSUMED;
	if (!(sim->dev->flags & IFF_UP)) {
		kfree_skb(skb);
		return RX_HANDLER_CONSUMED;
	}
	forget_offload(skb);
	skb->dev = sim->dev;
	DEV_STATS_INC(sim->dev, rx_packets);
	DEV_STATS_ADD(sim->dev, rx_bytes, skb->len + ETH_HLEN);
	return RX_HANDLER_ANOTHER;
}

/* TLS sessions */

static int tlssim_tls_add(struct net_device *dev, struct sock *sk, enum tls_offload_ctx_dir direction,
			  struct tls_crypto_info *crypto, u32 start_seq)
{
	struct tlssim *sim = netdev_priv(dev);
	u32 wanted = READ_ONCE(sim->refuse_errno);
	int error = -EOPNOTSUPP;

	/* For TX the core asks for these only; for RX it also offers ChaCha20-Poly1305. */
	if (crypto->version != TLS_1_2_VERSION)
		goto refuse;
	if (crypto->cipher_type != TLS_CIPHER_AES_GCM_128 && crypto->cipher_type != TLS_CIPHER_AES_GCM_256)
		goto refuse;
	if (atomic_inc_return(&sim->sessions[direction]) > READ_ONCE(sim->capacity)) {
		atomic_dec(&sim->sessions[direction]);
		error = wanted && wanted <= MAX_ERRNO ? -(int)wanted : -ENOSPC;
		goto refuse;
	}
	if (direction == TLS_OFFLOAD_CTX_DIR_TX) {
		struct tx_session *session = tls_driver_ctx(sk, direction);

		BUILD_BUG_ON(sizeof(*session) > TLS_DRIVER_STATE_SIZE_TX);
		session->next_seq = start_seq;
		count(sim, C_tx_tls_ctx, 1);
	} else {
		/* We decrypt nothing; so the core shall tell us of the next record, again and again. */
		tls_offload_rx_resync_set_type(sk, TLS_OFFLOAD_SYNC_TYPE_CORE_NEXT_HINT);
		count(sim, C_rx_tls_ctx, 1);
	}
	return 0;

refuse:
	count(sim, C_tx_tls_refused, 1);
	return error;
}

/* For TX the socket may be gone. */
static void tlssim_tls_del(struct net_device *dev, struct tls_context *context,
			   enum tls_offload_ctx_dir direction)
{
	struct tlssim *sim = netdev_priv(dev);

	atomic_dec(&sim->sessions[direction]);
	count(sim, direction == TLS_OFFLOAD_CTX_DIR_TX ? C_tx_tls_del : C_rx_tls_del, 1);
}

/* For TX only after tls_offload_tx_resync_request(), which we never call. */
static int tlssim_tls_resync(struct net_device *dev, struct sock *sk, u32 seq, u8 *record_number,
			     enum tls_offload_ctx_dir direction)
{
	if (direction == TLS_OFFLOAD_CTX_DIR_RX)
		count(netdev_priv(dev), C_rx_tls_resync_req_pkt, 1);
	return 0;
}

static const struct tlsdev_ops tlssim_tls_ops = {
	.tls_dev_add = tlssim_tls_add,
	.tls_dev_del = tlssim_tls_del,
	.tls_dev_resync = tlssim_tls_resync,
};

/* ethtool */

static void tlssim_drvinfo(struct net_device *dev, struct ethtool_drvinfo *info)
{
	struct tlssim *sim = netdev_priv(dev);

	strscpy(info->driver, DRIVER, sizeof(info->driver));
	strscpy(info->bus_info, sim->lower->name, sizeof(info->bus_info));
}

static int tlssim_string_count(struct net_device *dev, int set)
{
	return set == ETH_SS_STATS ? COUNTER_COUNT : -EOPNOTSUPP;
}

static void tlssim_strings(struct net_device *dev, u32 set, u8 *strings)
{
	if (set == ETH_SS_STATS)
		memcpy(strings, counter_names, sizeof(counter_names));
}

static void tlssim_statistics(struct net_device *dev, struct ethtool_stats *stats, u64 *values)
{
	struct tlssim *sim = netdev_priv(dev);
	int i;

	for (i = 0; i < COUNTER_COUNT; i++)
		values[i] = atomic64_read(&sim->counters[i]);
}

static const struct ethtool_ops tlssim_ethtool_ops = {
	.get_drvinfo = tlssim_drvinfo,
	.get_link = ethtool_op_get_link,
	.get_sset_count = tlssim_string_count,
	.get_strings = tlssim_strings,
	.get_ethtool_stats = tlssim_statistics,
};

/* The device */

static void take_address(struct tlssim *sim)
{
	eth_hw_addr_inherit(sim->dev, sim->lower);
	/* Not to be changed by udev, which gives a random address a lasting one. */
	sim->dev->addr_assign_type = NET_ADDR_STOLEN;
}

static void follow_carrier(struct tlssim *sim)
{
	/* netif_carrier_ok() of a device that is down says nothing. */
	if (netif_running(sim->lower) && netif_carrier_ok(sim->lower))
		netif_carrier_on(sim->dev);
	else
		netif_carrier_off(sim->dev);
}

static int tlssim_open(struct net_device *dev)
{
	struct tlssim *sim = netdev_priv(dev);

	if (dev->flags & IFF_ALLMULTI)
		dev_set_allmulti(sim->lower, 1);
	if (dev->flags & IFF_PROMISC)
		dev_set_promiscuity(sim->lower, 1);
	follow_carrier(sim);
	netif_start_queue(dev);
	return 0;
}

static int tlssim_stop(struct net_device *dev)
{
	struct tlssim *sim = netdev_priv(dev);

	netif_stop_queue(dev);
	/* No packet enters any more: the core has waited for those that were on their way. */
	cancel_delayed_work_sync(&sim->release);
	kfree_skb(sim->held);
	sim->held = NULL;
	dev_mc_unsync(sim->lower, dev);
	dev_uc_unsync(sim->lower, dev);
	if (dev->flags & IFF_ALLMULTI)
		dev_set_allmulti(sim->lower, -1);
	if (dev->flags & IFF_PROMISC)
		dev_set_promiscuity(sim->lower, -1);
	return 0;
}

static void tlssim_rx_mode(struct net_device *dev)
{
	struct tlssim *sim = netdev_priv(dev);

	dev_mc_sync(sim->lower, dev);
	dev_uc_sync(sim->lower, dev);
}

static void tlssim_rx_flags(struct net_device *dev, int change)
{
	struct tlssim *sim = netdev_priv(dev);

	if (!(dev->flags & IFF_UP))
		return;
	if (change & IFF_ALLMULTI)
		dev_set_allmulti(sim->lower, dev->flags & IFF_ALLMULTI ? 1 : -1);
	if (change & IFF_PROMISC)
		dev_set_promiscuity(sim->lower, dev->flags & IFF_PROMISC ? 1 : -1);
}

static int tlssim_mtu(struct net_device *dev, int mtu)
{
	struct tlssim *sim = netdev_priv(dev);

	if (mtu > sim->lower->mtu)
		return -EINVAL;
	WRITE_ONCE(dev->mtu, mtu);
	return 0;
}

static int tlssim_iflink(const struct net_device *dev)
{
	const struct tlssim *sim = netdev_priv(dev);

	return sim->lower->ifindex;
}

static int knob_get(void *data, u64 *value)
{
	struct knob *knob = data;

	*value = READ_ONCE(knob->every);
	return 0;
}

static int knob_set(void *data, u64 value)
{
	struct knob *knob = data;

	if (value > U32_MAX)
		return -EINVAL;
	atomic_set(&knob->passed, 0);
	WRITE_ONCE(knob->every, value);
	return 0;
}

DEFINE_DEBUGFS_ATTRIBUTE(knob_file, knob_get, knob_set, "%llu\n");

static void add_knobs(struct tlssim *sim)
{
	int i;

	sim->knobs = debugfs_create_dir(sim->dev->name, debugfs_root);
	if (IS_ERR(sim->knobs)) {
		netdev_warn(sim->dev, "no knobs: debugfs has no room for this name\n");
		sim->knobs = NULL;
		return;
	}
	debugfs_create_u32("capacity", 0600, sim->knobs, &sim->capacity);
	debugfs_create_u32("refuse_errno", 0600, sim->knobs, &sim->refuse_errno);
	for (i = 0; i < FATE_COUNT; i++)
		debugfs_create_file_unsafe(fate_knobs[i], 0600, sim->knobs, &sim->fates[i], &knob_file);
}

static int tlssim_init(struct net_device *dev)
{
	struct tlssim *sim = netdev_priv(dev);
	int error;

	error = netdev_rx_handler_register(sim->lower, tlssim_receive, sim);
	if (error)
		return error;
	dev_hold(sim->lower);
	return 0;
}

static void tlssim_uninit(struct net_device *dev)
{
	struct tlssim *sim = netdev_priv(dev);

	debugfs_remove_recursive(sim->knobs);
	sim->knobs = NULL;
	/* Waits for packets that are inside tlssim_receive(). */
	netdev_rx_handler_unregister(sim->lower);
	dev_put(sim->lower);
}

static const struct net_device_ops tlssim_netdev_ops = {
	.ndo_init = tlssim_init,
	.ndo_uninit = tlssim_uninit,
	.ndo_open = tlssim_open,
	.ndo_stop = tlssim_stop,
	.ndo_start_xmit = tlssim_xmit,
	.ndo_set_rx_mode = tlssim_rx_mode,
	.ndo_change_rx_flags = tlssim_rx_flags,
	.ndo_change_mtu = tlssim_mtu,
	.ndo_get_iflink = tlssim_iflink,
	.ndo_validate_addr = eth_validate_addr,
};

static void tlssim_setup(struct net_device *dev)
{
	struct tlssim *sim = netdev_priv(dev);

	ether_setup(dev);
	sim->dev = dev;
	sim->capacity = DEFAULT_CAPACITY;
	sim->refuse_errno = ENOSPC;
	INIT_DELAYED_WORK(&sim->release, tlssim_release);

	dev->netdev_ops = &tlssim_netdev_ops;
	dev->ethtool_ops = &tlssim_ethtool_ops;
	dev->tlsdev_ops = &tlssim_tls_ops;
	dev->needs_free_netdev = true;
	dev->priv_flags |= IFF_NO_QUEUE;
	/* We write to packets. */
	dev->priv_flags &= ~IFF_TX_SKB_SHARING;
	dev->hw_features = BASE_FEATURES | HW_TLS;
	/* As mlx5 comes up: transmit on, receive off and to be had. */
	dev->features = BASE_FEATURES | NETIF_F_HW_TLS_TX;
}

static int add_link(struct net_device *dev, struct net *net, struct nlattr *tb[],
		    struct netlink_ext_ack *extack)
{
	struct tlssim *sim = netdev_priv(dev);
	struct net_device *lower;
	int error;

	if (!tb[IFLA_LINK]) {
		NL_SET_ERR_MSG(extack, "Needs a device below: ip link add link LOWER type tlssim");
		return -EINVAL;
	}
	lower = __dev_get_by_index(net, nla_get_u32(tb[IFLA_LINK]));
	if (!lower)
		return -ENODEV;
	if (lower->type != ARPHRD_ETHER || lower->flags & IFF_LOOPBACK || lower->tlsdev_ops) {
		NL_SET_ERR_MSG(extack, "The device below must be Ethernet without TLS offload");
		return -EINVAL;
	}
	sim->lower = lower;
	if (!tb[IFLA_MTU])
		dev->mtu = lower->mtu;
	dev->min_mtu = lower->min_mtu;
	dev->max_mtu = lower->max_mtu;
	dev->needed_headroom = lower->needed_headroom;
	netif_inherit_tso_max(dev, lower);
	take_address(sim);
	/* udev and tools shall take it for a card where the one below is one. */
	SET_NETDEV_DEV(dev, lower->dev.parent);

	/* So that the carrier comes, and with it the operational state. */
	netif_carrier_off(dev);
	error = register_netdevice(dev);
	if (error)
		return error;
	error = netdev_upper_dev_link(lower, dev, extack);
	if (error) {
		unregister_netdevice(dev);
		return error;
	}
	add_knobs(sim);
	follow_carrier(sim);
	return 0;
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0)
static int tlssim_newlink(struct net_device *dev, struct rtnl_newlink_params *params,
			  struct netlink_ext_ack *extack)
{
	return add_link(dev, rtnl_newlink_link_net(params), params->tb, extack);
}
#else
static int tlssim_newlink(struct net *net, struct net_device *dev, struct nlattr *tb[], struct nlattr *data[],
			  struct netlink_ext_ack *extack)
{
	return add_link(dev, net, tb, extack);
}
#endif

static void tlssim_dellink(struct net_device *dev, struct list_head *head)
{
	struct tlssim *sim = netdev_priv(dev);

	netdev_upper_dev_unlink(sim->lower, dev);
	unregister_netdevice_queue(dev, head);
}

static struct net *tlssim_link_net(const struct net_device *dev)
{
	const struct tlssim *sim = netdev_priv(dev);

	return dev_net(sim->lower);
}

static struct rtnl_link_ops tlssim_link_ops __read_mostly = {
	.kind = DRIVER,
	.priv_size = sizeof(struct tlssim),
	.setup = tlssim_setup,
	.newlink = tlssim_newlink,
	.dellink = tlssim_dellink,
	.get_link_net = tlssim_link_net,
};

/* What happens to the device below, and to our name. */

static struct tlssim *above(struct net_device *lower)
{
	if (rtnl_dereference(lower->rx_handler) != tlssim_receive)
		return NULL;
	return rtnl_dereference(lower->rx_handler_data);
}

static int tlssim_event(struct notifier_block *block, unsigned long event, void *info)
{
	struct net_device *dev = netdev_notifier_info_to_dev(info);
	struct tlssim *sim;
	LIST_HEAD(gone);

	if (dev->netdev_ops == &tlssim_netdev_ops) {
		sim = netdev_priv(dev);
		if (event == NETDEV_CHANGENAME && sim->knobs) {
			debugfs_remove_recursive(sim->knobs);
			add_knobs(sim);
		}
		return NOTIFY_DONE;
	}
	sim = above(dev);
	if (!sim)
		return NOTIFY_DONE;
	switch (event) {
	case NETDEV_UP:
	case NETDEV_DOWN:
	case NETDEV_CHANGE:
		follow_carrier(sim);
		break;
	case NETDEV_CHANGEMTU:
		if (sim->dev->mtu > dev->mtu)
			dev_set_mtu(sim->dev, dev->mtu);
		break;
	case NETDEV_CHANGEADDR:
		take_address(sim);
		call_netdevice_notifiers(NETDEV_CHANGEADDR, sim->dev);
		break;
	case NETDEV_UNREGISTER:
		/* Also sent when a device moves to another network namespace. */
		if (dev->reg_state != NETREG_UNREGISTERING)
			break;
		tlssim_dellink(sim->dev, &gone);
		unregister_netdevice_many(&gone);
		break;
	}
	return NOTIFY_DONE;
}

static struct notifier_block tlssim_notifier = { .notifier_call = tlssim_event };

static int __init tlssim_start(void)
{
	int error;

	debugfs_root = debugfs_create_dir(DRIVER, NULL);
	error = register_netdevice_notifier(&tlssim_notifier);
	if (error)
		goto no_notifier;
	error = rtnl_link_register(&tlssim_link_ops);
	if (error)
		goto no_link;
	return 0;

no_link:
	unregister_netdevice_notifier(&tlssim_notifier);
no_notifier:
	debugfs_remove_recursive(debugfs_root);
	return error;
}

/* Ends all devices: the core takes their TLS sessions back to software. */
static void __exit tlssim_end(void)
{
	rtnl_link_unregister(&tlssim_link_ops);
	unregister_netdevice_notifier(&tlssim_notifier);
	debugfs_remove_recursive(debugfs_root);
}

module_init(tlssim_start);
module_exit(tlssim_end);
MODULE_DESCRIPTION("A network card with TLS offload, played in software for the lab of ktls-fleet");
MODULE_AUTHOR("ktls-fleet");
MODULE_LICENSE("GPL");
MODULE_ALIAS_RTNL_LINK(DRIVER);
