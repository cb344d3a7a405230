/* fs/mount.h, fs/namespace.c: the mounted file systems. */

struct qstr {
	union {
		struct {
			u32 hash;
			u32 len;
		};
		u64 hash_len;
	};
	const unsigned char *name;
};

struct hlist_bl_node {
	struct hlist_bl_node *next, **pprev;
};

struct dentry {
	unsigned int d_flags;
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	unsigned char d_iname[32];
	const struct dentry_operations *d_op;
	struct super_block *d_sb;
};

struct dentry_operations {
	int (*d_revalidate)(void);
	int (*d_dname)(void);
};

struct file_system_type {
	const char *name;
	int fs_flags;
};

struct super_block {
	struct list_head s_list;
	u32 s_dev;
	unsigned long s_blocksize;
	struct file_system_type *s_type;
	unsigned long s_flags;
	unsigned long s_magic;
	struct dentry *s_root;
	char *s_subtype;
};

struct vfsmount {
	struct dentry *mnt_root;
	struct super_block *mnt_sb;
	int mnt_flags;
};

struct mount {
	struct list_head mnt_hash;
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	struct list_head mnt_mounts;
	struct list_head mnt_child;
	const char *mnt_devname;
#ifdef PERCPU_ORDINARY
	struct rb_node mnt_node;
#else
	struct list_head mnt_list;
#endif
	struct mnt_namespace *mnt_ns;
	int mnt_id;
};

struct mnt_namespace {
	u32 inum;
	struct mount *root;
#ifdef PERCPU_ORDINARY
	struct rb_root mounts;
	unsigned int nr_mounts;
#else
	struct list_head list;
	unsigned int mounts;
#endif
};
